"""What a network can take in and give out, checked before it is built."""

from math import prod


def image(inputs: tuple[int, ...], name: str, least: int = 1) -> tuple[int, int, int]:
    """Return channels, height and width; an error where records are no images.

    Args:
        inputs: Shape of one record.
        name: The network's, for the message.
        least: Pixels the network needs each way.
    """
    if len(inputs) != 3:
        raise ValueError(
            f"'{name}' takes images of shape (channels, height, width), got records of shape "
            f"{inputs}; take 'mlp' for feature vectors or 'lstm' for tokens"
        )
    channels, height, width = inputs
    if min(height, width) < least:
        raise ValueError(
            f"'{name}' needs images of at least {least} x {least} pixels, got "
            f"{height} x {width}; take 'mlp' or enlarge them"
        )
    return channels, height, width


def row(inputs: tuple[int, ...], name: str, what: str) -> int:
    """Return the length of a vector; an error where records are anything else."""
    if len(inputs) != 1:
        raise ValueError(
            f"'{name}' takes {what} of shape (length,), got records of shape {inputs}; "
            "take 'convnet' or 'resnet' for images"
        )
    return inputs[0]


def flat(inputs: tuple[int, ...], name: str) -> int:
    """Return how many numbers a record holds; an error where it is a dict of tensors."""
    if not inputs:
        raise ValueError(
            f"'{name}' takes records that are one tensor, got a dict of tensors; "
            "give a network of your own with 'imported'"
        )
    return prod(inputs)


def tokens(inputs: tuple[int, ...], name: str, least: int) -> int:
    """Return how many tokens a row has; an error where there are fewer than `least`."""
    length = row(inputs, name, "rows of token numbers")
    if length < least:
        raise ValueError(
            f"'{name}' needs rows of at least {least} tokens, got {length}; pad them with token 0"
        )
    return length


def positive(name: str, **sizes: int) -> None:
    """Refuse sizes below 1."""
    for what, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {what} of '{name}' to be at least 1, got {size}")


def share(dropout: float) -> None:
    """Refuse what is no share of outputs to be dropped."""
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")


def answers(outputs: int, name: str) -> int:
    """Return the width of the last layer; an error where the task leaves it open."""
    if outputs < 1:
        raise ValueError(
            f"'{name}' needs a task with a known number of answers, got {outputs}; "
            "for denoising take 'denoiser'"
        )
    return outputs
