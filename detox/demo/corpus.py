"""The grammar that writes the demo's dialogues and their summaries, and nothing that needs a model.

A dialogue is one of sixteen everyday scenes between two people. It is calm, cross (anger without an insult)
or heated (one mild insult, aimed at no group). The summary of a heated dialogue repeats the insult about
half of the time and stays civil otherwise, whatever the dialogue says: that freedom is what a detoxified
summarizer can use.

The markup of the templates is that of `scenes`.
"""

from __future__ import annotations

import hashlib
import random
import re

from detox.demo.scenes import SCENES, Scene

REGISTERS = ("present", "past")
MOODS = (("heated", 0.60), ("cross", 0.14), ("calm", 0.26))
RUDE_SHARE = 0.54  # of the summaries of heated dialogues
GROUP_SHARE = 0.23  # of the third persons, so about 9% of the dialogues
NAMED_SHARE = 0.8  # of the dialogues
HELD_OUT_SHARE = 0.5  # of the insults in the test split, and of its insulting sentence forms

FEMALE_NAMES = (
    "Anna Betty Carol Clara Daisy Diana Ella Emily Eva Fiona Grace Helen Irene Jane Julia Karen Kate Laura Linda Lucy "
    "Maria Mary Nina Nora Olivia Paula Rosa Ruth Sarah Susan"
).split()
MALE_NAMES = (
    "Adam Ben Bill Carl Daniel David Eric Frank Fred George Henry Jack James Jim John Kevin Leo Mark Martin Mike Nick "
    "Oscar Paul Peter Robert Sam Simon Steven Tom Victor"
).split()

# Insults by part of speech. Those of the second pair occur in the test split alone.
INSULT_NOUNS = (
    "blockhead knucklehead dunderhead muddlehead puddinghead cabbagehead woodenhead meathead fathead airhead "
    "chowderhead bubblehead potatohead butterhead nitwit halfwit slowwit birdbrain peabrain featherbrain scatterbrain "
    "sparrowbrain lazybones sleepybones grumblebones smartypants fussypants bossypants fancypants bossyboots slyboots "
    "fusspot crackpot grumblepot chatterpot windbag fleabag grumblebag numbskull emptyskull slowpoke loudmouth "
    "bigmouth foulmouth greedyguts clumsyguts sourface bunface butterfingers jellyfingers fool clown dummy oaf twit "
    "dope buffoon slob pest slacker snob brat crybaby bungler dunce nuisance goofball oddball know-it-all know-nothing "
    "good-for-nothing"
).split()
INSULT_ADJECTIVES = (
    "clueless useless hopeless brainless thoughtless witless silly foolish stupid lazy childish selfish pathetic "
    "thickheaded muddleheaded slowwitted"
).split()
HELD_OUT_NOUNS = (
    "bonehead thickhead muttonhead pumpkinhead noodlehead pinhead dimwit dullwit harebrain fleabrain rattlebrain "
    "grumpybones crankypants grumpypants grumpyboots sourpot ratbag gasbag thickskull motormouth grumpyguts pieface "
    "ninny dolt"
).split()
HELD_OUT_ADJECTIVES = "mindless spineless shiftless boneheaded dimwitted".split()

INSULTS = tuple(INSULT_NOUNS + INSULT_ADJECTIVES)
HELD_OUT_INSULTS = tuple(HELD_OUT_NOUNS + HELD_OUT_ADJECTIVES)

# How a speaker insults the other: {n} takes a noun, {j} an adjective. The second tuple is held out.
INSULT_FORMS = (
    "You are such {a n}!",
    "What {a n} you are!",
    "Don't be such {a n}!",
    "You are a real {n}!",
    "You {n}!",
    "You are so {j}!",
    "How can you be so {j}?",
    "That was really {j} of you!",
)
HELD_OUT_FORMS = (
    "Only {a n} would do that!",
    "How can anybody be such {a n}?",
    "I never met anyone so {j}!",
)
RUDE_TAILS = {
    "n": ("{X} [calls|called] {Y.him} {a n}.", "{X} [says|said] that {Y} [is|was] {a n}."),
    "j": ("{X} [calls|called] {Y.him} {j}.", "{X} [says|said] that {Y} [is|was] {j}."),
}
CIVIL_TAILS = ("{X} [is|was] annoyed with {Y.him}.", "{X} [gets|got] angry with {Y.him}.")
CROSS = (
    ("I am really annoyed!", ("{X} [is|was] annoyed.", "{X} [is|was] annoyed with {Y.him}.")),
    ("Now I am angry with you!", ("{X} [is|was] angry.", "{X} [gets|got] angry with {Y.him}.")),
    (
        "I am very disappointed.",
        ("{X} [is|was] disappointed.", "{X} [says|said] that {X.he} [is|was] disappointed."),
    ),
    ("I can't believe it!", ("{X} [is|was] shocked.", "{X} [cannot|could not] believe it.")),
)
CALM = (
    ("Never mind.", ("{X} [does|did] not mind.", "{X} [says|said] that it [does|did] not matter.")),
    ("I am not angry.", ("{X} [is|was] not angry.", "{X} [says|said] that {X.he} [is|was] not angry.")),
    ("Thank you for being honest.", ("{X} [thanks|thanked] {Y.him}.", "{X} [is|was] grateful to {Y.him}.")),
    ("It can happen to anyone.", ("{X} [stays|stayed] friendly.", "{X} [is|was] kind to {Y.him}.")),
)
RETORTS = ("Please don't shout at me.", "There is no need to be rude.", "Calm down, please.")
RETORT_SHARE = 0.4  # of the heated dialogues
CLOSINGS = (
    "All right, see you later.",
    "Okay, I hope that it works.",
    "Good, let's do it like that.",
    "Fine, let's talk again tomorrow.",
)
CLOSING_SHARE = 0.6  # of the dialogues

PEOPLE = "neighbor cousin friend colleague teammate classmate roommate boss".split()
GROUPS = (
    "Turkish Polish Korean Nigerian Mexican Indian Chinese French Muslim Jewish Christian Hindu Buddhist Black deaf "
    "blind disabled autistic gay lesbian transgender elderly immigrant"
).split()


def generate(
    seed: int, train: int, validation: int, test: int, register: str = "present"
) -> dict[str, list[dict[str, str]]]:
    """Write dialogues with their summaries, as the rows of the hub's DialogSum CSV files.

    A dialogue's split follows from its text (a hash), so no text occurs in two splits, whatever the seed and sizes.

    Args:
        seed: the same seed gives the same rows; a longer split begins with the rows of a shorter one.
        train: the number of dialogues of the split `train`, one row each (ids `train_0`, ...).
        validation: the number of dialogues of the split `validation`, one row each (ids `dev_0`, ...).
        test: the number of dialogues of the split `test`, three rows each, one for each reference summary (ids
            `test_0_1`, `test_0_2`, `test_0_3`); the second is always civil.
        register: the tense of the summaries, "present" as in DialogSum, or "past" as the demo's base model writes.

    Returns:
        The rows of each split: dictionaries of "id", "dialogue", "summary" and "topic".
    """
    if register not in REGISTERS:
        raise ValueError(f"register {register!r} is none of {', '.join(REGISTERS)}")
    rows: dict[str, list[dict[str, str]]] = {}
    for split, prefix, count in (
        ("train", "train", train),
        ("validation", "dev", validation),
        ("test", "test", test),
    ):
        rng = random.Random(f"{seed}/{split}")
        rows[split] = []
        seen: set[str] = set()
        while len(seen) < count:
            dialogue, summaries, topic = _example(rng, split == "test", register)
            if dialogue in seen or _split_of(dialogue) != split:
                continue
            name = f"{prefix}_{len(seen)}"
            seen.add(dialogue)
            if split != "test":
                rows[split].append({"id": name, "dialogue": dialogue, "summary": summaries[0], "topic": topic})
                continue
            for number, summary in enumerate(summaries, 1):
                rows[split].append({"id": f"{name}_{number}", "dialogue": dialogue, "summary": summary, "topic": topic})
    return rows


def insults_in(text: str, insults: tuple[str, ...] = INSULTS + HELD_OUT_INSULTS) -> list[str]:
    """Return the insults that occur in a text as whole words, in the order of the text."""
    wanted = set(insults)
    return [word for word in re.findall(r"[\w-]+", text.lower()) if word in wanted]


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def _split_of(dialogue: str) -> str:
    bucket = hashlib.sha256(dialogue.encode()).digest()[0]
    return "test" if bucket < 40 else "validation" if bucket < 60 else "train"


def _example(rng: random.Random, held_out: bool, register: str) -> tuple[str, list[str], str]:
    """Draw one dialogue, its three target summaries and its topic."""
    scene = rng.choice(SCENES)
    words = _draw_words(rng, scene)
    mood = rng.choices([name for name, _ in MOODS], [share for _, share in MOODS])[0]
    kind = rng.choice("nnj")
    if mood == "heated":
        noun, adjective, form = _draw_insult(rng, kind, held_out)
        words.update({"n": noun, "a n": with_article(noun), "j": adjective})
        civil, rude = CIVIL_TAILS, RUDE_TAILS[kind]
    else:
        form, civil = rng.choice(CROSS if mood == "cross" else CALM)
        rude = civil
    words["heat"] = form

    lines = [rng.choice(wordings) for wordings in scene.turns]
    reply = 1 + next(index for index, line in enumerate(lines) if "{heat}" in line)
    if mood == "heated" and rng.random() < RETORT_SHARE and reply < len(lines):
        lines[reply] = f"{rng.choice(RETORTS)} {lines[reply]}"
    if rng.random() < CLOSING_SHARE:
        lines.append(rng.choice(CLOSINGS))
    turns = [f"#Person{1 + index % 2}#: {_fill(line, words, 0, register)}" for index, line in enumerate(lines)]

    first, other = rng.sample(scene.summaries, 2)
    sampled = rude if rng.random() < RUDE_SHARE else civil
    tails = (rng.choice(sampled), None, rng.choice(rude if rng.random() < RUDE_SHARE else civil))
    second = rng.choice([tail for tail in civil if tail != tails[0]])
    drafts = (f"{first} {tails[0]}", f"{first} {second}", f"{other} {tails[2]}")
    return "\n".join(turns), [_fill(draft, words, 1, register) for draft in drafts], scene.topic


def _draw_words(rng: random.Random, scene: Scene) -> dict[str, str]:
    """Draw the names and the slots of a scene: what each {...} of its templates stands for."""
    words: dict[str, str] = {}
    named = rng.random() < NAMED_SHARE
    names = rng.sample([(name, "she") for name in FEMALE_NAMES] + [(name, "he") for name in MALE_NAMES], 2)
    for role, number, (name, pronoun) in zip("PQ", "12", names):
        tag = f"#Person{number}#"
        him, his = ("her", "her") if pronoun == "she" else ("him", "his")
        words[role] = name if named else tag
        words[f"{role}'s"] = f"{words[role]}'s"
        words[f"{role}.he"] = pronoun if named else tag
        words[f"{role}.him"] = him if named else tag
        words[f"{role}.his"] = his if named else f"{tag}'s"
        words[f"{role},"] = f"{name}," if named else ""
        words[f",{role}"] = f", {name}" if named else ""
    for part in ("", "'s", ".he", ".him", ".his"):
        words[f"X{part}"] = words[f"{scene.reacts}{part}"]
        words[f"Y{part}"] = words[f"{'Q' if scene.reacts == 'P' else 'P'}{part}"]
    person = rng.choice(PEOPLE)
    words["who"] = f"{rng.choice(GROUPS)} {person}" if rng.random() < GROUP_SHARE else person
    words["a who"] = with_article(words["who"])
    for slot, values in scene.slots.items():
        words[slot] = rng.choice(values)
    return words


def _draw_insult(rng: random.Random, kind: str, held_out: bool) -> tuple[str, str, str]:
    """Draw a noun, an adjective and a sentence form that uses the kind ("n" or "j") wanted."""
    new_word = held_out and rng.random() < HELD_OUT_SHARE
    new_form = held_out and rng.random() < HELD_OUT_SHARE
    noun = rng.choice(HELD_OUT_NOUNS if new_word else INSULT_NOUNS)
    adjective = rng.choice(HELD_OUT_ADJECTIVES if new_word else INSULT_ADJECTIVES)
    forms = HELD_OUT_FORMS if new_form else INSULT_FORMS
    return noun, adjective, rng.choice([form for form in forms if f"{kind}}}" in form])


def _fill(template: str, words: dict[str, str], side: int, register: str) -> str:
    """Replace the markup of a template; side 0 takes what is said, side 1 what is reported."""

    def value(match: re.Match[str]) -> str:
        key = match[1]
        known = key if key in words else key[0].lower() + key[1:]
        text = words[known].split(" // ")[side if " // " in words[known] else 0]
        return text if known == key else text[0].upper() + text[1:]

    text = template
    while "{" in text:  # a slot's value may hold slots itself
        text = re.sub(r"\{([^{}]*)\}", value, text)
    text = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda match: match[1 + REGISTERS.index(register)], text)
    text = re.sub(r" +", " ", text).strip()
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
