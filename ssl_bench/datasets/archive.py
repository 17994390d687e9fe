"""Published archives: unpacking one that a user has placed by hand, only when its checksum is right."""
from __future__ import annotations

import os


def unpack_if_intact(root: str, filename: str, md5: str) -> bool:
    """Unpack `root/filename` into `root` if it is there with this md5; whether it was."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    path = os.path.join(root, filename)
    if not check_integrity(path, md5):
        return False
    extract_archive(path, root)
    return True
