"""Disks that fail: a small one, and one that loses its power."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import eventually

SHUT_DOWN = 0x8004587D
"""The request by which ext4 drops all that it has not written yet: `FS_IOC_SHUTDOWN`."""

NO_FLUSH = b"\x02\0\0\0"


def mount(*arguments: str | Path) -> None:
    """Mounts; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can mount a disk that fails")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: no disk can be mounted here ({done.stderr.strip()})")


def unmount(folder: Path) -> None:
    """Returns when nobody uses it any more: a server that was killed takes its last processes along a moment later."""

    def done() -> bool:
        return subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode == 0

    eventually(done)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of so many bytes (`8m`), in memory, mounted there until it is left."""
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder)
    try:
        yield folder
    finally:
        unmount(folder)


def fill(file: Path) -> None:
    """Writes a file until nothing more goes on its disk."""
    with file.open("wb", buffering=0) as ballast:
        size = 1 << 20
        while size:
            try:
                ballast.write(bytes(size))
            except OSError:
                size //= 2


class LoopDisk:
    """An ext4 in a file, which can be cut off or made read-only by an error while it is in use."""

    def __init__(self, image: Path, folder: Path, megabytes: int = 24) -> None:
        self._image = image
        self.folder = folder
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("NOT TESTED: there is no mkfs.ext4")
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        folder.mkdir(exist_ok=True)
        self._mount()

    def _mount(self) -> None:
        mount("-o", "loop,errors=remount-ro", self._image, self.folder)

    def remount(self) -> None:
        """Another disk with the same content.

        The same one may still be mounted in a mount namespace that somebody made meanwhile, and in its state.
        """
        self.unmount()
        self._image = Path(shutil.copyfile(self._image, self._image.with_name(f"{self._image.name}-again")))
        self._mount()

    def unmount(self) -> None:
        unmount(self.folder)

    def cut_power(self) -> None:
        """Whatever is not on it now never comes there."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUT_DOWN, NO_FLUSH)
        finally:
            os.close(descriptor)

    def fail(self) -> None:
        """It finds itself damaged, and takes nothing more."""
        found = ["findmnt", "-n", "-o", "SOURCE", str(self.folder)]
        device = Path(subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip())
        Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("1")
