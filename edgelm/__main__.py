"""``python -m edgelm`` is the command ``edgelm``."""

from edgelm.cli import main

if __name__ == "__main__":
    main()
