"""Workers that others wait for in vain: frozen ones, and ones that live but do not come."""


class SilentWorkerError(Exception):
    """A worker gives no sign of life."""


class LateWorkersError(Exception):
    """Other workers live, but do not come."""
