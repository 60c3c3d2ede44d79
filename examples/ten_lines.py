"""A command, a file and a terminal on your own machine. Sign in first: ``doorstep login URL``."""

import asyncio
import sys

from doorstep import client as doorstep


async def main(name: str) -> None:
    async with doorstep.connect(name) as agent:
        print((await agent.commands.run("uname -sm")).stdout, end="")
        await agent.files.write("hello.txt", "hello from afar\n")
        print(await agent.files.read_text("hello.txt"), end="")
        async with agent.terminal(80, 24) as terminal:
            await terminal.write("echo $((6 * 7))\n")
            print((await terminal.expect(r"\b42\b")).group())


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "my-machine"))
