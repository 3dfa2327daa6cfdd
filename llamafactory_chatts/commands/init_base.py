"""Build a ChatTS base model: from a Qwen folder, or a tiny random one for trials.

A base has the weights of its Qwen model, the tokens <ts> and <ts/>, and an encoder for series that is not
trained yet. Qwen2, Qwen2.5 and Qwen3 (dense text models, safetensors) can be turned into one. The result
takes as much disk space as the Qwen folder, which is only read.

examples:
  # 0.24 million random parameters, ready in seconds: does the whole way from data to chat work here?
  lmf-chatts init-base --tiny bases/tiny

  # a base of 8 billion parameters
  lmf-chatts init-base Qwen/Qwen3-8B bases/chatts-8b
"""

import argparse

from ..core.errors import ChatTSError


ENCODER = {
    "patch_size": (8, "points per patch"),
    "num_layers": (5, "linear layers of the encoder"),
    "embedding_dim": (16, "width of a point's position embedding"),
    "max_sequence_length": (32768, "points of the longest series"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; settings that belong to one of the two ways default to None."""
    parser.add_argument("qwen_dir", nargs="?", metavar="QWEN_DIR", help="local folder of a Qwen2, 2.5 or 3 model")
    parser.add_argument("out", nargs="?", metavar="OUT", help="new folder")
    parser.add_argument("--tiny", metavar="DIR", help="write a tiny random base to this new folder instead")
    parser.add_argument("--backbone", choices=("qwen3", "qwen2"), help="kind of a --tiny base (default: qwen3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")
    for name, (default, text) in ENCODER.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{text} (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Build the base that was asked for and print where it is."""
    encoder = {name: getattr(args, name) for name in ENCODER if getattr(args, name) is not None}
    if args.tiny is not None:
        given = [name for name in ("qwen_dir", "out") if getattr(args, name) is not None]
        flags = [f"--{name.replace('_', '-')}" for name in encoder]
        if given or flags:
            raise ChatTSError(
                f"--tiny does not take {', '.join([*given, *flags])}", where="init-base", fix="Leave it out"
            )

        from ..data.synthesize.demo import corpus
        from ..model.bases.tiny_base import init_tiny

        out = init_tiny(args.tiny, corpus(), args.seed, args.backbone or "qwen3", args.overwrite)
    else:
        if args.qwen_dir is None or args.out is None:
            raise ChatTSError(
                "QWEN_DIR and OUT are needed", where="init-base", fix="Give both, or --tiny DIR for a tiny base"
            )

        if args.backbone is not None:
            raise ChatTSError("--backbone belongs to --tiny", where="init-base", fix="QWEN_DIR decides; leave it out")

        from ..model.bases.init_base import init_from_qwen

        out = init_from_qwen(args.qwen_dir, args.out, args.seed, overwrite=args.overwrite, **encoder)

    print(f"{out}: a ChatTS base; its encoder is not trained yet")
    return 0
