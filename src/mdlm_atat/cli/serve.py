"""atat serve: a trained model as a page and a JSON API."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser
from mdlm_atat.cli.parser import whole as whole_number
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import find_classifier, follow, name_of
from mdlm_atat.plugins import trusted
from mdlm_atat.published.place import find_model

TOKEN = re.compile("[!-~]+")


def make_parser() -> Parser:
    parser = Parser(
        "atat serve",
        "A page on this machine to fill gaps and write with a trained model, and the same as a JSON API.",
        """examples:
  atat serve --open
  atat serve runs/novels --open
  atat serve runs/novels --port 9000
  atat serve runs/novels --host 0.0.0.0               for other machines too; prints a token
  atat serve runs/novels --host 0.0.0.0 --tls_cert server.crt --tls_key server.key      the same, encrypted
  curl --json '{"text": "It was a [MASK:3] night"}' http://127.0.0.1:8017/v1/infill

Ctrl-C ends it. docs/serve.md has the API.
""",
    )
    add_model_arguments(parser, or_box=True)
    parser.add_argument("--classifier", type=Path, help="serve this classifier, which atat finetune made, too")
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    where.add_argument("--port", type=whole_number(0, 65535), help="port (default: 8017, or the next free one)")
    where.add_argument(
        "--token",
        help="what requests must bring as `Authorization: Bearer TOKEN` (default: none on this machine alone, else one "
        "is made and printed)",
    )
    where.add_argument(
        "--allow_host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further names that the server is reached by, behind a proxy for example",
    )
    where.add_argument(
        "--tls_cert",
        type=Path,
        metavar="FILE",
        help="encrypt connections (https): a certificate in PEM, those that vouch for it behind it",
    )
    where.add_argument("--tls_key", type=Path, metavar="FILE", help="the certificate's private key, PEM")
    where.add_argument("--open", action="store_true", help="open the page in the browser")
    much = parser.add_argument_group("how much")
    much.add_argument("--max_characters", type=whole_number(1), default=50_000, help="of all texts of a request")
    much.add_argument("--max_tokens", type=whole_number(1), help="of a text (default: four times the model's length)")
    much.add_argument("--max_texts", type=whole_number(1), default=64, help="texts, or candidates, of a request")
    much.add_argument("--max_seconds", type=whole_number(1), default=120, help="that a request may keep the model busy")
    much.add_argument("--max_queue", type=whole_number(1), default=256, help="requests that may wait")
    much.add_argument("--batch_size", type=whole_number(1), default=16, help="texts made together")
    parser.add_argument("--log_texts", action="store_true", help="print every request and answer (default: none)")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.token == "":
        raise UserError("--token is empty: leave it out, or name one")
    if arguments.token is not None and not TOKEN.fullmatch(arguments.token):
        raise UserError("--token may have letters, digits and signs of ASCII, and no spaces: no header holds others")
    check_model(arguments.model)
    if arguments.classifier is not None:
        find_classifier(find_model(arguments.classifier).path)
    with trusted(arguments.trust_plugins):
        serve(arguments)
    return 0


def serve(arguments: Namespace) -> None:
    from mdlm_atat.serve.guard import Guard, is_loopback, new_token
    from mdlm_atat.serve.limits import Limits
    from mdlm_atat.serve.repeat import ModelNamed
    from mdlm_atat.serve.server import address, listen, open_browser, run
    from mdlm_atat.serve.service import Service
    from mdlm_atat.serve.tls import read_certificate

    certificate = read_certificate(arguments.tls_cert, arguments.tls_key)
    sock = listen(arguments.host, arguments.port)  # before the model is loaded, which takes longer
    token = arguments.token or (None if is_loopback(arguments.host) else new_token())
    lm = load_model(arguments)
    classifier = None
    if arguments.classifier is not None:
        from mdlm_atat.finetuning.classifier import TextClassifier

        classifier = TextClassifier.from_pretrained(
            arguments.classifier, device=arguments.device, precision=arguments.precision
        )
    how = {name: getattr(arguments, name) for name in ("device", "precision") if getattr(arguments, name) != "auto"}
    how = {name: value for name, value in how.items() if value is not None}
    if arguments.trust_plugins:
        how["trust_plugins"] = True
    keywords = "".join(f", {name}={value!r}" for name, value in how.items())
    flags = [
        word for name, value in how.items() for word in ((f"--{name}",) if value is True else (f"--{name}", value))
    ]
    name = name_of(arguments.model)
    names = ("max_characters", "max_tokens", "max_texts", "max_seconds", "max_queue", "batch_size")
    service = Service(
        lm,
        ModelNamed([name, *flags], f"mdlm_atat.load_lm({name!r}{keywords})"),
        follow(arguments.model).resolve().name,
        repr(lm),
        Limits(**{name: getattr(arguments, name) for name in names}),
        classifier,
    )
    url = address(sock, token, certificate)

    def on_start() -> None:
        print(f"serving {name} at {url} (Ctrl-C ends it)", flush=True)
        if arguments.open:
            open_browser(url)

    run(
        service,
        sock,
        Guard(arguments.host, token, [*arguments.allow_host, *(certificate.names if certificate else ())]),
        tls=None if certificate is None else certificate.context,
        log_texts=arguments.log_texts,
        on_start=on_start,
    )
