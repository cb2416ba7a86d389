"""Commands about finished models: models, rollback, publish, pull."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gitpeft.cli import console, options
from gitpeft.git.repository import Repository
from gitpeft.terminal import replace_unprintable


def models(repo: options.RepoOption = None, as_json: options.JsonOption = False) -> None:
    """List the models kept here, newest first.

    The three newest models are kept, and always the active one and the one before it.
    """
    from gitpeft.bundle import registry

    found = registry.list_model_versions(Repository.open(repo).state_dir)
    if as_json:
        console.print_json([asdict(one) for one in found])
        return
    from gitpeft.cli import views

    views.print_models(found)


def rollback(
    model: Annotated[
        str, typer.Argument(metavar="ID", help="The beginning of an id; default: the previous model.")
    ] = "",
    repo: options.RepoOption = None,
) -> None:
    """Make an earlier model active again.

    A second call undoes the first.
    """
    from gitpeft.bundle import registry

    bundle = registry.roll_back_model(Repository.open(repo).state_dir, model)
    made = replace_unprintable(console.format_age(bundle.manifest.created))
    print(f"active: {bundle.id[: registry.SHORT_ID_LENGTH]}, made {made}")


RemoteOption = Annotated[
    str, typer.Option("--remote", metavar="NAME", help="The remote that the team shares.")
]
ChannelOption = Annotated[
    str, typer.Option("--channel", metavar="NAME", help="One of several models side by side.")
]


def publish(
    repo: options.RepoOption = None,
    remote: RemoteOption = "origin",
    channel: ChannelOption = "main",
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="PATH", help="A new folder or a file *.bundle, instead of a remote."),
    ] = None,
    sign: Annotated[
        bool | None, typer.Option("--sign/--no-sign", help="Sign it; default: as your git is set up.")
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=1, help="Dated versions that stay on the remote.")
    ] = 5,
    push_option: Annotated[
        list[str] | None,
        typer.Option("--push-option", "-o", metavar="TEXT", help="Passed on to `git push`; may be repeated."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Share the active model with the team through git.

    It goes to a ref of the team's remote, a folder or a file, and replaces the model there only if you have
    seen that one: published or pulled it.
    """
    from gitpeft.share import publish as share_publish

    repository = Repository.open(repo)
    if to is not None:
        done = share_publish.publish_model_to_path(repository, to, channel, sign=sign)
    else:
        done = share_publish.publish_model(
            repository, remote, channel, sign=sign, keep=keep, push_options=push_option or ()
        )
    if as_json:
        console.print_json(asdict(done))
        return
    where = done.place if to is not None else f"{remote} {done.place}"
    signed = "signed" if done.signed else "not signed"
    print(f"published {done.bundle[:12]} to {where} ({console.format_size(done.size)}, {signed})")
    for note in done.notes:
        print(f"  {note}")


def pull(
    repo: options.RepoOption = None,
    remote: RemoteOption = "origin",
    channel: ChannelOption = "main",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="A folder or a file *.bundle, instead of a remote."),
    ] = None,
    accept: Annotated[
        str,
        typer.Option(
            "--accept", metavar="KEY", help="A key to accept, or one of the words unsigned and older."
        ),
    ] = "",
    no_activate: Annotated[
        bool, typer.Option("--no-activate", help="Keep the active model; only store the new one.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Fetch the team's model, check it and activate it.

    Checks signature, hashes and shapes, and runs the model once; needs no torch. Trusted signers are those of
    `.gitpeft-signers` on the default branch; about others you are asked.
    """
    from gitpeft.share import publish

    repository = Repository.open(repo)
    asking = typer.confirm if sys.stdin.isatty() and not as_json else None
    terms = publish.TrustTerms(accept, asking)
    if source is not None:
        done = publish.pull_model_from_path(repository, source, terms, activate=not no_activate)
    else:
        done = publish.pull_model(repository, remote, channel, terms, activate=not no_activate)
    if as_json:
        console.print_json(asdict(done))
        return
    state = "active" if done.active else f"not active; `gitpeft rollback {done.bundle[:12]}` activates it"
    print(f"{done.bundle[:12]} ({_format_signer(done.signer.name, done.signer.key)}): {state}")


def _format_signer(name: str, key: str) -> str:
    return key if key == "unsigned" else f"signed by {replace_unprintable(name or key)}"
