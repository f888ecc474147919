"""The parts of the dialogues on which results are shown apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

# Modest and in English, after the identity terms of Dixon et al. 2018 ("Measuring and mitigating unintended
# bias in text classification") and Borkan et al. 2019 (arXiv 1903.04561), as regular expressions.
IDENTITY_WORDS: Mapping[str, str] = {
    "faith": (
        r"muslims? islam islamic jews? jewish judaism christians? christianity catholics? protestants? "
        r"hindus? hinduism buddhists? buddhism sikhs? atheists? mormons? mosques? synagogues?"
    ),
    "origin": (
        r"africans? americans? arabs? arabic asians? australians? brazilians? british canadians? chinese "
        r"cubans? dutch europeans? filipinos? french germans? greeks? gyps(?:y|ies) hispanics? indians? "
        r"indigenous iranians? iraqis? irish israelis? italians? japanese koreans? latin[aox]s? lebanese "
        r"mexicans? nigerians? pakistanis? palestinians? portuguese romani russians? scottish somalis? "
        r"spanish syrians? turks? turkish ukrainians? vietnamese blacks whites immigrants? migrants? "
        r"refugees? foreigners? asylum[\s-]seekers?"
    ),
    "gender or orientation": (
        r"woman women females? feminists? feminism lesbians? gays? bisexuals? homosexuals? heterosexuals? "
        r"queers? trans transgender(?:ed)? transsexuals? non-?binary lgbtq?"
    ),
    "disability": (
        r"deaf disabled disabilit(?:y|ies) handicapped autistic autism dyslexi[ac] paraly[sz]ed "
        r"wheelchairs? schizophreni[ac] bipolar amputees? dementia"
    ),
    "age": (
        r"elderly pensioners? retirees? millennials? boomers? senior\scitizens? teenagers? teenaged? "
        r"(?:old|young)(?:er)?\s(?:people|folks?) old\s(?:wo)?m[ae]n"
    ),
}
# Mostly mean something else in talk ("white coffee", "go straight"): they count before a word for people.
_AMBIGUOUS = "black white brown blind straight polish english native"
_PEOPLE = (
    r"people persons? folks? m[ae]n wom[ae]n guys? girls? boys? lad(?:y|ies) kids? child(?:ren)? "
    r"famil(?:y|ies) communit(?:y|ies) neighbou?rs? cousins? friends? colleagues? "
    r"(?:class|team|room)mates? boss students? workers?"
)
_IDENTITY = re.compile(
    rf"(?<!\w)(?:{'|'.join(' '.join(IDENTITY_WORDS.values()).split(' '))}"
    rf"|(?:{_AMBIGUOUS.replace(' ', '|')})\s+(?:{_PEOPLE.replace(' ', '|')}))(?!\w)",
    re.IGNORECASE,
)


def identity_mention(text: str) -> bool:
    """Return whether `text` names a group by faith, origin, gender or orientation, disability or age.

    By the whole words of IDENTITY_WORDS: it finds mentions, friendly or not, and some that are none, such as
    "Chinese food".
    """
    return _IDENTITY.search(text) is not None


def slices(dialogues: Sequence[str], toxicity: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of the dialogues on which results are shown apart; `two_models.by_slice` takes them.

    Args:
        dialogues: n texts.
        toxicity: [n] toxicity of the dialogue or of its target summary. Never of the samples compared: a tenth
            that was chosen for high samples has lower ones the next time, without any training.
        lengths: [n] prompt lengths, in any unit.

    Returns:
        [n] bool masks, True = belongs to it: `most toxic tenth`, `identity mentions`, `no identity mentions`,
        `longest quarter`. The first and the last are empty where all values are the same.

    Source: Xu et al. 2021, arXiv 2104.06390, and Welbl et al. 2021, arXiv 2109.07445: detoxification
        costs most where minorities are mentioned.
    """
    mentions = np.array([identity_mention(d) for d in dialogues], dtype=bool)
    return {
        "most toxic tenth": _highest(toxicity, len(mentions), 0.1),
        "identity mentions": mentions,
        "no identity mentions": ~mentions,
        "longest quarter": _highest(lengths, len(mentions), 0.25),
    }


def _highest(values: np.ndarray, n: int, share: float) -> np.ndarray:
    """Return the mask of the highest values, `share` of all, earlier ones first among equals."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"slices need one finite number for each of {n} dialogues, not {list(values.shape)}")
    mask = np.zeros(n, dtype=bool)
    if n and values.min() < values.max():
        mask[np.argsort(-values, kind="stable")[: max(1, round(share * n))]] = True
    return mask
