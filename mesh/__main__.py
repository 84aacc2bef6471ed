"""``python -m mesh``: the command line; ``./tidegate`` runs it in the locked environment."""

import sys

from mesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
