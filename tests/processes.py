"""How a process of a group ends."""

import os

import torch.distributed as dist


def leave_group() -> None:
    """Ends this process once all have come so far, and without the end of its interpreter.

    Threads of gloo may still run then, also when the group has been destroyed, and abort the process.
    """
    dist.barrier()
    os._exit(0)
