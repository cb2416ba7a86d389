"""A recipe for the adapter of a tiny base, with the clones that it learns from."""

from pathlib import Path

from gitpeft.learn.pretraining import adapter_build
from gitpeft.learn.pretraining.adapter_build import AdapterRecipe
from tests.support import tinymodel
from tests.support.gitrepo import Repo
from tests.support.tinybase import nobody

NOUNS = [
    f"{a}{b}"
    for a in ("sun", "rain", "snow", "wind", "fog")
    for b in ("fall", "day", "rise", "y", "s", "less")
]

RECIPE = """\
[data]
repositories = "repositories.tsv"
newest = 60
validation = ["b/held"]

[input]
total = 400

[adapter]
rank = 4
alpha = 8

[train]
start = "checkpoint/adapter_model.safetensors"
rate = 1e-2
warm = 16
batch = 4
pairs = 24
check_every = 12
checked = 6
compile = false

[profile.pieces]
minutes = 0.0

[profile.gpu]
part_tokens = 1024
"""


def make_place(top: Path) -> Path:
    """A recipe with its list of repositories, their clones in `corpus`, and a base in `out`; the folder."""
    rows = ["repo\tcommit\tlicence"]
    for name in ("a/first", "b/held"):
        repo = Repo.create(top / "corpus" / name.replace("/", "+"))
        for number in range(30):
            word, more = ("parser", "cache", "router")[number % 3], NOUNS[number]
            content = f"def {word}_{more}(): pass  # {name[0]}\n"
            repo.commit(f"Let {word} have {word}_{more}", **{f"src/{word}.py": content})
        rows.append(f"{name}\t{repo.git('rev-parse', 'HEAD')}\tMIT")
    (top / "repositories.tsv").write_text("\n".join(rows) + "\n")
    (top / "recipe.toml").write_text(RECIPE)
    tinymodel.causal().save_pretrained(top / "out")
    tinymodel.write_tokenizer(top / "out")
    return top


def build(place: Path, work: str, profile: str = "") -> bool:
    """Build the adapter with a profile of the recipe; whether all pairs were seen."""
    recipe = AdapterRecipe.load(place / "recipe.toml", profile)
    return adapter_build.build_adapter(recipe, place / "corpus", place / work, place / "out", nobody)
