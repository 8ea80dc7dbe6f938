"""What `tandem import` and `tandem export` share: how each of them fails."""

from collections.abc import Callable

from proxy.cli.command import fail


def tell(source: str, stopped: str, work: Callable[[], None]) -> int:
    """0 once `work` is done; 1 if `source` cannot be carried over, and 130 if it was `stopped`."""
    from adapters.errors import BackendError
    from adapters.gguf.conversion import InexactGGUFError, UnsupportedGGUFError

    try:
        work()
    except (BackendError, UnsupportedGGUFError, InexactGGUFError) as exc:
        return fail(1, f"{source}: {exc}")
    except OSError as exc:
        return fail(1, f"{source}: {exc.strerror or exc}")
    except KeyboardInterrupt:
        return fail(130, stopped)
    return 0
