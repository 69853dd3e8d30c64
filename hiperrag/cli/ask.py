def ask() -> None:
    """x"""
