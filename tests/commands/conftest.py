"""The constants of ``tests.runs`` under the name that tests of commands import them by."""

from tests.runs import ATTACK, CHECKPOINT, DEFENSE, HEAD, HID, ROOT, SIMCLR, SMALL, copy_checkpoint

__all__ = ["ATTACK", "CHECKPOINT", "DEFENSE", "HEAD", "HID", "ROOT", "SIMCLR", "SMALL", "copy_checkpoint"]
