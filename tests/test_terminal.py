"""What only a terminal shows: the progress bar. The plain lines are tested in the notebooks."""
import os
import struct
import sys

import pytest
from conftest import START

from saerec.train.steps import progress_bar


def two_epochs(terminal: str) -> None:
    "A process whose terminal this is."
    for fd in range(3): os.dup2(os.open(terminal, os.O_RDWR), fd)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    with progress_bar(2, "likes", True) as show:
        show(1, "loss 0.5")
        show(2, "loss 0.25")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize(("columns", "bar"), [(80, True), (0, False)])
def test_progress_in_a_terminal(columns: int, bar: bool) -> None:
    "A bar that keeps up with the epochs; lines where the terminal does not know its width."
    import fcntl
    import pty
    import termios
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    p = START.Process(target=two_epochs, args=(os.ttyname(theirs),))
    p.start()
    p.join(60)
    data = os.read(ours, 2**16)
    for fd in (ours, theirs): os.close(fd)
    assert p.exitcode == 0, data
    shown = [line for line in data.decode().replace("\r", "\n").split("\n") if line.startswith("likes")]
    assert ("█" in shown[-1]) == bar and "2/2" in shown[-1] and "loss 0.25" in shown[-1]
    late = any("2/2" in line and "0.5" in line for line in shown)
    assert not late, "the bar shows an epoch with the loss of the one before"
