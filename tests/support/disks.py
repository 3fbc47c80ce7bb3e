"""Disks that fail: one that is small, and one that loses power."""

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
"""The ioctl `FS_IOC_SHUTDOWN`, by which ext4 drops all unwritten data."""

NO_FLUSH = b"\x02\0\0\0"


def mount(*arguments: str | Path) -> None:
    """Mount a file system; skip the test if that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can mount a disk that fails")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: no disk can be mounted here ({done.stderr.strip()})")


def unmount(folder: Path) -> None:
    """Unmount as soon as no process uses the disk: processes of a killed server may end a moment later."""

    def done() -> bool:
        return subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode == 0

    eventually(done)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory of a given size (`8m`) until the context ends."""
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder)
    try:
        yield folder
    finally:
        unmount(folder)


def fill(file: Path) -> None:
    """Write a file until its disk is full."""
    with file.open("wb", buffering=0) as ballast:
        size = 1 << 20
        while size:
            try:
                ballast.write(bytes(size))
            except OSError:
                size //= 2


class LoopDisk:
    """An ext4 file system in a file, which can lose power or become read-only while it is in use."""

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
        """Mount a copy of the disk in its place.

        Another process may have created a mount namespace meanwhile. There the disk is still mounted, and still failed.
        """
        self.unmount()
        self._image = Path(shutil.copyfile(self._image, self._image.with_name(f"{self._image.name}-again")))
        self._mount()

    def unmount(self) -> None:
        unmount(self.folder)

    def cut_power(self) -> None:
        """Drop all data that is not written yet, as a loss of power does."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUT_DOWN, NO_FLUSH)
        finally:
            os.close(descriptor)

    def fail(self) -> None:
        """Make the file system detect damage, so that it becomes read-only."""
        found = ["findmnt", "-n", "-o", "SOURCE", str(self.folder)]
        device = Path(subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip())
        Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("1")
