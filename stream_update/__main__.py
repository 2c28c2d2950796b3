"""``python -m stream_update`` is the command ``stream-update``."""

from stream_update.cli import main

if __name__ == "__main__":
    main()
