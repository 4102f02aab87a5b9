"""What befalls copies, and what is told of them."""

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.check import check_dataset


def told(name, root):
    """All that opening and reading a data set tells, one sentence a line."""
    return "\n".join(check_dataset(open_dataset(name, root)).problems)


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path):
    path.write_bytes(b"<html>404 not found</html>" * 20)
