"""The command line."""


def main() -> None:
    """Run the command `gitpeft`; what is heavy is imported only then."""
    from gitpeft.cli.app import main

    main()
