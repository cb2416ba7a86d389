"""`python -m gitpeft` is the command `gitpeft`."""

from gitpeft.cli.app import main

if __name__ == "__main__":
    main()
