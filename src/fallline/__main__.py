"""``python -m fallline``."""

from fallline.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
