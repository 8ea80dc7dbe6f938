"""The engine's process: `python -m adapters.mlx.process FD`, started by `MLXProcessBackend`."""

import sys

from adapters.mlx.process.child import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
