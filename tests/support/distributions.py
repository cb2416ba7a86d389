"""What the distributions of packages are called where that is another name."""

DISTRIBUTIONS = {
    "git": "gitpython",
    "yaml": "pyyaml",
    "click": "typer",
    "huggingface_hub": "huggingface-hub",
    "rouge_score": "rouge-score",
    "detect_secrets": "detect-secrets",
}
