"""atat push: send a model to the hub."""

from __future__ import annotations

from argparse import Namespace
from contextlib import AbstractContextManager
from pathlib import Path

from mdlm_atat.cli.model import WHICH, add_trust_argument, check_model
from mdlm_atat.cli.parser import Parser
from mdlm_atat.errors import command_line
from mdlm_atat.formats import data_size
from mdlm_atat.model_folder import CLASSIFIER_FILE
from mdlm_atat.plugins import trusted
from mdlm_atat.published.push import Push, Target, check_target


def make_parser() -> Parser:
    parser = Parser(
        "atat push",
        "Send a model to the hub, with a card that says what it is.",
        """examples:
  atat push runs/demo me/my-model --dry_run            what would be sent
  atat push runs/demo me/my-model --private
  atat push runs/demo me/my-model --weights bf16 --replace
  atat push emails-model me/emails --private           a classifier that atat finetune made

It needs a token that may write: hf auth login, or HF_TOKEN.
""",
    )
    parser.add_argument("model", type=Path, metavar="RUN", help=WHICH)
    parser.add_argument("repository", metavar="OWNER/NAME", help="what it is to be called on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository that only its owner sees")
    parser.add_argument("--dry_run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="put it in the place of what the repository holds, whose history keeps that",
    )
    parser.add_argument(
        "--weights",
        choices=["float32", "bf16", "int8"],
        help="how they are stored: as they are, in half of the space, or in a quarter (default: as in a saved folder, "
        "else float32)",
    )
    parser.add_argument("--revision", help="a branch, made if it is missing (default: main)")
    parser.add_argument("--message", help="of the commit")
    add_trust_argument(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    target = check_target(
        arguments.repository,
        revision=arguments.revision,
        private=arguments.private or None,
        replace=arguments.replace,
        to_write=not arguments.dry_run,
    )
    if not is_classifier(arguments.model):
        check_model(arguments.model)
    with trusted(arguments.trust_plugins):
        push(arguments, target)
    return 0


def is_classifier(path: Path) -> bool:
    """Whether a folder is that of a classifier, or of results that hold one; a run that holds one is a run."""
    if not path.is_dir() or ((path / "config.yaml").exists() and not (path / CLASSIFIER_FILE).exists()):
        return False
    return any(file for pattern in ("", "[!.]*/") for file in path.glob(f"{pattern}{CLASSIFIER_FILE}"))


def push(arguments: Namespace, target: Target) -> None:
    from mdlm_atat.published.push import plan, send

    kind = "classify" if is_classifier(arguments.model) else "generate"
    with prepared(arguments, kind) as folder:
        planned = plan(folder, target)
        print("\n".join(lines_of(planned)))
        if arguments.dry_run:
            needed = "; it would need --replace" if target.has_files and not arguments.replace else ""
            print(f"{'dry run':10} nothing was sent{needed}")
            return
        url = send(planned, private=arguments.private or None, message=arguments.message)
    name = f"hub:{target.name.repository}" + (f"@{arguments.revision}" if arguments.revision else "")
    print(f"{'pushed':10} {url}\n{'next':10} {command_line([kind, name])}")


def prepared(arguments: Namespace, kind: str) -> AbstractContextManager[Path]:
    """The folder that is sent."""
    if kind == "classify":
        from mdlm_atat.finetuning import push
        from mdlm_atat.finetuning.classifier import TextClassifier

        classifier = TextClassifier.from_pretrained(arguments.model, device="cpu")
        return push.saved_for(classifier, arguments.repository, arguments.weights)
    from mdlm_atat.lm import load_lm
    from mdlm_atat.lm.push import saved_for

    return saved_for(load_lm(arguments.model, device="cpu"), arguments.repository, arguments.weights)


def lines_of(push: Push) -> list[str]:
    """What would be sent and removed, a line for each file."""
    target = push.target
    where = "a new repository" if target.is_new else f"a repository with {len(target.files)} files"
    lines = [f"{'to':10} {target.name.repository}, {where}"]
    for name, size in push.files.items():
        lines.append(f"{'replace' if name in target.files else 'send':10} {name}  {data_size(size)}")
    lines += [f"{'remove':10} {name}" for name in push.removed]
    return [*lines, f"{'in all':10} {len(push.files)} files, {data_size(sum(push.files.values()))}"]
