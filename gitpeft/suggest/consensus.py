"""Consensus: what a message is worth if one of those that the model sampled is the one to be written.

Choosing the message of the highest consensus is minimum Bayes risk decoding (Kumar and Byrne 2004; by samples
Eikema and Aziz 2020) with the share of keystrokes saved as the gain: of all that the model holds to be likely
it takes what is nearest to the rest, where a beam search takes the likeliest single wording.
"""

from collections.abc import Mapping, Sequence


def compute_consensus(messages: Sequence[str], samples: Mapping[str, int]) -> list[float]:
    """The mean share (0..1) of the keystrokes of a sampled message that each message saves.

    `samples` are the different sampled messages and how often each was sampled; 0 for all without any.
    A message of twice a sample's length or more saves nothing of it.
    """
    total = sum(samples.values())
    if not total:
        return [0.0] * len(messages)
    lengths = list(map(len, samples))
    consensus = []
    for message, distances in zip(messages, compute_edit_distances(messages, list(samples)), strict=True):
        saved = (
            max(0.0, 1 - distance / max(1, length)) if len(message) < 2 * length else 0.0
            for distance, length in zip(distances, lengths, strict=True)
        )
        consensus.append(
            sum(share * count for share, count in zip(saved, samples.values(), strict=True)) / total
        )
    return consensus


def compute_edit_distances(messages: Sequence[str], others: Sequence[str]) -> list[list[int]]:
    """The edit distances of each message to all others, in characters.

    Columns of the table are bits (Myers 1999, in the form of Hyyrö 2003): those of all others side by side in
    one integer, with a free bit behind each that stops the carry. So a character of a message costs a dozen
    operations, whatever it is compared with.
    """
    places: dict[str, int] = {}
    starts, firsts, used, end = [], 0, 0, 0
    for text in others:
        starts.append(end)
        firsts |= 1 << end
        used |= ((1 << len(text)) - 1) << end
        for place, character in enumerate(text, end):
            places[character] = places.get(character, 0) | 1 << place
        end += len(text) + 1
    lanes = [((1 << len(text)) - 1) << start for start, text in zip(starts, others, strict=True)]
    found = []
    for message in messages:
        more, less = used, 0  # where an entry is one more, or less, than that above it
        for character in message:
            same = places.get(character, 0)
            diagonal = (((same & more) + more) ^ more) | same | less
            right_more = (less | used & ~(diagonal | more)) << 1 | firsts
            right_less = (diagonal & more) << 1
            more = (right_less | ~(diagonal | right_more)) & used
            less = right_more & diagonal & used
        found.append([len(message) + (more & lane).bit_count() - (less & lane).bit_count() for lane in lanes])
    return found
