"""Commands and options are completed: typed into each real shell on a terminal of its own, with the tab key."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.peers import program

pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(broker completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D -u; eval "$(broker completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "broker completion fish | source"),
}
_CONTROLS = re.compile(r"\x1b(\[[0-9;?>=]*[a-zA-Z]|[()].|[=>]|\][^\x07\x1b]*(\x07|\x1b\\))|\x08|\x0f")


class Terminal:
    """A shell somebody types into."""

    def __init__(self, command, folder):
        self.master, slave = pty.openpty()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8", "PS1": "$ "}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - shells want it
        )
        os.close(slave)
        self.seen = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, timeout_s=60):
        """Read on until a pattern stands there; forget what stood before its end."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not come; on the terminal stands {self.seen!r}"
            if select.select([self.master], [], [], min(left, 1))[0]:
                self.seen = _CONTROLS.sub(
                    "", self.seen + os.read(self.master, 65536).decode("utf-8", "replace")
                )
        self.seen = self.seen[found.end() :]
        return found

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_shell_completes_nouns_commands_and_options(shell, tmp_path):
    command, set_up = SHELLS[shell]
    terminal = Terminal([program(command[0]), *command[1:]], tmp_path)
    try:
        terminal.type(f"{set_up}; echo re''ady\n")
        terminal.wait_for("ready")
        for typed, completed in (
            ("broker deliv", r"broker deliveries"),
            ("broker destinations dra", r"broker destinations drain"),
            ("broker deliveries list --dest", r"broker deliveries list --destination"),
        ):
            terminal.type(typed + "\t")
            terminal.wait_for(completed)
            terminal.type("\x15")  # kill the line
    finally:
        terminal.close()
