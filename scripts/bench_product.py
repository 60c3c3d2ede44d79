"""Bench: what a user feels, in one run: knock to usable terminal, echo beside ssh, files beside scp, idle.

On loopback, with real processes: a hub, an agent, this client; sshd from Debian's openssh-server.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from doorstep.client import Agent, AttemptReport, connect
from doorstep.testing.stack import AgentProgram, Stack, StackUser, free_port, stack

MB = 1_000_000


async def main() -> None:
    options = _options()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, loopback")
    with tempfile.TemporaryDirectory() as directory:
        async with stack(Path(directory)) as running:
            user = await running.user()
            # A new user's home: what the shell's own start-up files cost is not ours to measure.
            home = Path(directory) / "home"
            home.mkdir()
            agent = await running.agent(user, "bench", environment={"HOME": str(home)})
            await _idle(agent, options.idle)
            await _connect_time(user, options.runs)
            async with (
                connect("bench", credentials=user.credentials) as session,
                _sshd(Path(directory)) as ssh,
            ):
                await _echo(session, ssh, options.keys)
                await _bulk(session, ssh, Path(directory), home, options.megabytes)
            _report_hub(running)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="connections to make")
    parser.add_argument("--keys", type=int, default=500, help="keystrokes to time")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the file")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds to watch the idle agent")
    return parser.parse_args()


# --- connecting ---


async def _connect_time(user: StackUser, runs: int) -> None:
    """Time each state of ``connect()`` and the first prompt of a terminal after it."""
    steps: dict[str, list[float]] = {}
    whole: list[float] = []
    for _ in range(runs + 1):  # the first warms both processes up
        reached: list[tuple[str, float]] = []

        def note(report: AttemptReport, reached: list[tuple[str, float]] = reached) -> None:
            reached.append((str(report.state), time.perf_counter()))

        async with connect("bench", credentials=user.credentials, on_state=note) as session:
            opened = time.perf_counter()
            async with session.terminal(80, 24) as terminal:
                await terminal.write(b"printf '%s%s' rea dy\n")
                await terminal.expect("ready")
                usable = time.perf_counter()
        knocked = dict(reached)["waiting-ready"]
        marks = [*reached, ("connected", opened)]
        for (name, start), (_, end) in itertools.pairwise(marks):
            steps.setdefault(name, []).append(end - start)
        steps.setdefault("terminal: prompt and first command", []).append(usable - opened)
        whole.append(usable - knocked)
    print(f"\nconnect, {runs} runs                        median     min     max")
    for name, seconds in steps.items():
        print(_row(f"  {name}", seconds[1:]))
    print(_row("  knock -> usable terminal", whole[1:]))


def _row(name: str, seconds: Sequence[float]) -> str:
    figures = statistics.median(seconds), min(seconds), max(seconds)
    return f"{name:<44}" + "".join(f"{figure * 1000:7.1f} " for figure in figures) + "ms"


# --- echo ---


async def _echo(session: Agent, ssh: Sequence[str], keys: int) -> None:
    print(f"\nkeystroke echo through a raw PTY, {keys} keys       p50     p99")
    async with session.terminal(80, 24, command=["cat"]) as terminal:

        async def ours(key: bytes) -> None:
            await terminal.write(key)
            await terminal.read(1)

        mine = await _time_keys(ours, keys)
    process = await asyncio.create_subprocess_exec(
        *ssh, "-tt", "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def theirs(key: bytes) -> None:
        stdin.write(key)
        await stdout.read(1)

    peers = await _time_keys(theirs, keys)
    process.kill()
    await process.wait()
    print(f"  doorstep                                 {mine[0] * 1e3:7.2f} {mine[1] * 1e3:7.2f} ms")
    print(f"  ssh                                      {peers[0] * 1e3:7.2f} {peers[1] * 1e3:7.2f} ms")
    print(f"  ratio                                    {mine[0] / peers[0]:7.2f} {mine[1] / peers[1]:7.2f}")


async def _time_keys(press: Callable[[bytes], Awaitable[None]], keys: int) -> tuple[float, float]:
    """(p50, p99) in seconds; a key each 4 ms, as a fast typist's repeat would."""
    took: list[float] = []
    for number in range(keys + 20):
        start = time.perf_counter()
        await asyncio.wait_for(press(b"abcdefgh"[number % 8 : number % 8 + 1]), 10)
        took.append(time.perf_counter() - start)
        await asyncio.sleep(0.004)
    took = sorted(took[20:])
    return took[len(took) // 2], took[int(len(took) * 0.99)]


# --- bulk ---


async def _bulk(session: Agent, ssh: Sequence[str], directory: Path, home: Path, megabytes: int) -> None:
    content = os.urandom(megabytes * MB)
    source = directory / "bulk"
    source.write_bytes(content)
    remote = home / "copied"
    host, options = ssh[-1], list(ssh[1:-1])
    port = options.index("-p")
    scp = ["scp", "-q", *options[:port], "-P", options[port + 1], *options[port + 2 :]]
    rows: dict[str, list[float]] = {"doorstep up": [], "doorstep down": [], "scp up": [], "scp down": []}
    try:
        for _ in range(3):  # interleaved, so that a noisy machine is noisy for all
            rows["doorstep up"].append(await _timed(session.files.upload(source, remote.name)))
            rows["doorstep down"].append(
                await _timed(session.files.download(remote.name, directory / "back"))
            )
            rows["scp up"].append(await _timed(_run([*scp, str(source), f"{host}:{remote}"])))
            rows["scp down"].append(await _timed(_run([*scp, f"{host}:{remote}", str(directory / "back")])))
    finally:
        remote.unlink(missing_ok=True)
    print(f"\nfile of {megabytes} MB, 3 runs each                 median     min     max")
    for name, seconds in rows.items():
        rates = sorted(megabytes / each for each in seconds)
        print(f"  {name:<42}{rates[1]:7.1f} {rates[0]:7.1f} {rates[-1]:7.1f} MB/s")


async def _timed(work: Awaitable[object]) -> float:
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def _run(command: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise RuntimeError(f"{command[0]} failed")


@asynccontextmanager
async def _sshd(directory: Path) -> AsyncIterator[list[str]]:
    """Run an sshd of our own on a loopback port; yield the ssh command up to the host."""
    home = directory / "ssh"
    home.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    port = free_port()
    (home / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n"
        "StrictModes no\nPasswordAuthentication no\nPidFile none\nUsePAM no\n"
        "Subsystem sftp internal-sftp\n"
    )
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        raise SystemExit("sshd is needed for the comparison (Debian: openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sshd, "-D", "-f", str(home / "config"), stderr=asyncio.subprocess.DEVNULL
    )
    command = ["ssh", "-q", "-p", str(port), "-i", str(home / "user"), "-o", "StrictHostKeyChecking=no"]
    command += ["-o", f"UserKnownHostsFile={home}/known", f"{getpass.getuser()}@127.0.0.1"]
    try:
        async with asyncio.timeout(120):  # the user's own start-up files run
            while await (await asyncio.create_subprocess_exec(*command, "true")).wait():
                await asyncio.sleep(0.1)
        yield command
    finally:
        process.terminate()
        await process.wait()


# --- idle ---


async def _idle(agent: AgentProgram, seconds: float) -> None:
    before = _cpu(agent.pid)
    await asyncio.sleep(seconds)
    used = _cpu(agent.pid) - before
    print(f"\nidle agent over {seconds:g} s: {_rss(agent.pid):.0f} MiB RSS, {100 * used / seconds:.2f} % CPU")


def _report_hub(running: Stack) -> None:
    print(f"\nhub after all this: {_rss(running.hub.pid):.0f} MiB RSS")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    asyncio.run(main())
