"""The same without ``async``. Sign in first: ``doorstep login URL``."""

import sys

from doorstep.client import sync as doorstep

with doorstep.connect(sys.argv[1] if len(sys.argv) > 1 else "my-machine") as agent:
    print(agent.commands.run("uname -sm").stdout, end="")
    agent.files.write("hello.txt", "hello from afar\n")
    print(agent.files.read_text("hello.txt"), end="")
    with agent.terminal(80, 24) as terminal:
        terminal.write("echo $((6 * 7))\n")
        print(terminal.expect(r"\b42\b").group())
