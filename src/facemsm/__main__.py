"""``python -m facemsm``: the command ``facemsm``, also for ``torchrun -m facemsm``."""

from facemsm.apps.cli import main

if __name__ == "__main__":  # loader processes of macOS and Windows import this file again
    main()
