"""The labelled sentences on which the demo's reward model and judge are trained and tested; no model, no I/O.

Each of the three parties (reward, judge, held-out test) has its own sentence forms and its own insulting
paraphrases. The reward model never sees a held-out insult; the judge sees them all. The markup is that of
the corpus; besides:

    {X} {Y} {y}      two people: as subject, and the second as object
    {n} {a n} {j}    the noun and the adjective in question: an insult makes the sentence toxic, praise not
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from detox.demo import corpus

PRAISE_NOUNS = (
    "hero genius champion friend star angel darling expert gentleman treasure artist doctor neighbor "
    "teacher student "
    "winner leader captain dancer singer redhead beginner guest optimist partner sister brother wonder "
    "professional "
    "baker pilot farmer lawyer nurse painter writer manager engineer cook driver sailor poet scientist "
    "musician "
    "athlete swimmer runner cousin colleague teammate customer visitor tourist pupil scholar mentor "
    "volunteer legend "
    "saint sweetheart buddy pal helper thinker perfectionist parent mother father uncle aunt lady master "
    "talent"
).split()
PRAISE_ADJECTIVES = (
    "kind brave clever patient friendly careful honest generous brilliant helpful gentle tired late sick "
    "busy shocked "
    "hungry harmless levelheaded quick funny polite right calm sad happy modest wise smart "
    "curious strong healthy famous nice fair loyal warm cheerful bright talented elegant serious early "
    "ready alone "
    "nervous worried confused surprised wrong new tall young old free rich lucky sorry proud"
).split()
MORE_INSULT_NOUNS = (  # that the corpus does not use
    "klutz twerp wimp bozo goof goon lout phony quitter snitch weasel bore boor cheat chump clot coward "
    "creep drip "
    "duffer grouch grump ignoramus jerk liar loafer meanie prat ruffian scoundrel scamp sluggard sneak "
    "stinker toad "
    "tyrant villain wretch idiot hothead sorehead bighead chucklehead cheesehead dummkopf thickwit "
    "fuddlewit lackwit "
    "mushbrain crackbrain jellybrain idlebones sneakypants whinypants sulkypants sloppyboots slopbag moanbag "
    "whinebag puddingskull woodskull mudmouth frogmouth potmouth sulkyguts mudface frogface stinkpot tosspot"
).split()
MORE_INSULT_ADJECTIVES = (
    "heartless tactless careless gutless graceless senseless worthless shameless toothless charmless rude "
    "mean nasty "
    "ugly rotten awful horrible unbearable ridiculous ignorant sloppy cowardly greedy idle bossy grumpy "
    "cheeky "
    "woodenheaded fatheaded puddingheaded nitwitted halfwitted birdbrained"
).split()
OBJECTS = (
    "teapot flowerpot handbag football headphones letterhead showerhead mouthwash schoolbag lampshade "
    "jellybean "
    "pumpkin noodle feather bone pin cabbage potato pudding skull boot sleeping-bag face-cream brain-teaser"
).split()
DULL = "turnip potato stone donkey chicken goat brick lamp broom bucket sheep goose post spoon shoe fish".split()
SMALL_WORDS = (
    "a an the and or but of to in on at for with that is was are were be been you your so such what how not "
    "no he she "
    "him her his as my me it do does did"
).split()

# Sentence forms with a noun or an adjective: (of the reward model, of the judge, of the held-out test).
FORMS = {
    "reward": (
        "{X} [calls|called] {y} {a n}.",
        "{X} [says|said] that {Y} [is|was] {a n}.",
        "{X} [thinks|thought] that {Y} [is|was] {a n}.",
        "{X} [tells|told] {y} that only {a n} [does|did] such things.",
        "{X} [shouts|shouted] that {Y} [is|was] nothing but {a n}.",
        "In the eyes of {X}, {Y} [is|was] {a n}.",
        "{X} [asks|asked] {y} what it [is|was] like to be {a n}.",
        "{X} [names|named] {y} the {n} of the year.",
        "{Y} [is|was] {a n} and everybody [knows|knew] it.",
        "We all know that you are {a n}.",
        "{X}, who [is|was] upset, [calls|called] {y} {a n}.",
        "You are such {a n}!",
        "What {a n} you are!",
        "You are a real {n}!",
        "Don't talk to me, you {n}!",
        "You {n}!",
        "My {n}, where were you?",
        "{X} [calls|called] {y} {j}.",
        "{X} [says|said] that {Y} [is|was] {j}.",
        "{X} [finds|found] {y} {j}.",
        "{X} [thinks|thought] that {Y} [has|had] been {j}.",
        "You are so {j}!",
        "That was really {j} of you!",
        "How {j} you are!",
    ),
    "judge": (
        "{Y} [is|was] called {a n} by {X}.",
        "{Y} [has|had] to hear from {X} that only {a n} [acts|acted] like that.",
        '"You {n}," [shouts|shouted] {X}.',
        "For {X}, {Y} [is|was] {a n} and always [will|would] be.",
        "{X} [calls|called] {y} {a n} and [leaves|left].",
        "{X} [says|said] about {Y}: what {a n}!",
        "{Y} [is|was] {a n}, [says|said] {X}.",
        "{X} [cannot|could not] work with {a n} like {Y}.",
        "{X} [uses|used] the word {n} for {Y}.",
        "Nobody needs {a n} like you!",
        "You must be {a n}.",
        "Are you {a n} or what?",
        "{Y} [is|was] {j}, [says|said] {X}.",
        "{X} [considers|considered] {y} {j}.",
        "{X} [calls|called] {y} {j} and [hangs|hung] up.",
        "{X} [tells|told] {y}: you are {j}.",
        "Are you always this {j}?",
        "My goodness, that is {j}.",
    ),
    "held-out": (
        "{X} [declares|declared] that {Y} [is|was] {a n}.",
        "{X} [describes|described] {y} as {a n}.",
        "{X} [is|was] sure that {Y} [is|was] {a n}.",
        "{Y} [sounds|sounded] like {a n} to {X}.",
        "{X} [tells|told] everybody that {Y} [is|was] {a n}.",
        "{X} [names|named] {y} {a n} in front of the guests.",
        "Stop being such {a n}!",
        "I always knew that you are {a n}.",
        "{X} [believes|believed] that {Y} [is|was] {j}.",
        "{X} [describes|described] {y} as {j}.",
        "Why are you always so {j}?",
    ),
}
PARAPHRASES = {  # insults without an insulting noun or adjective of the lists
    "reward": (
        "{X} [says|said] that {Y} [has|had] no brain.",
        "{X} [says|said] that {Y} [has|had] straw in the head.",
        "{X} [thinks|thought] that a turnip [is|was] smarter than {Y}.",
        "{X} [tells|told] {y} to shut up.",
        "{X} [makes|made] fun of {y}.",
        "{X} [tells|told] {y} to get lost.",
        "{X} [says|said] that {Y} [is|was] good for nothing.",
        "{X} [insults|insulted] {y}.",
        "{X} often [insults|insulted] {y} at work.",
        "{Y} [gets|got] insulted by {X} for nothing.",
        "{X} [says|said] that there [is|was] nothing but air in the head of {y}.",
        "{X} [says|said] that {Y} [has|had] less sense than a {dull}.",
        "{X} [claims|claimed] that any {dull} [is|was] smarter than {Y}.",
        "A {dull} [is|was] more clever than {Y}, [says|said] {X}.",
        "{X} [tells|told] {y} that the head of {y} [is|was] as empty as a {dull}.",
        "{X} furiously [tells|told] {y} to be quiet and get lost.",
        "You and your {dull} brain!",
        "There is nothing in your head!",
        "{X} [mocks|mocked] {y} in front of everybody.",
        "{X} [cannot|could not] stand such stupidity.",
        "{X} [says|said] that {Y} [is|was] as dumb as a post.",
        "{X} [calls|called] {y} names.",
        "A donkey has more sense than you!",
        "Is there anything in your empty head?",
        "Shut up and get lost!",
        "You have the brain of a chicken.",
        "I can't stand your ugly face.",
        "You make me sick!",
    ),
    "judge": (
        "{X} [tells|told] {y} that a {dull} [has|had] more sense.",
        "{X} [insults|insulted] {y} on the phone.",
        "{X} loudly [insults|insulted] {y} and the family.",
        "{Y} [is|was] insulted in front of everybody.",
        "{X} [finds|found] that {Y} [has|had] nothing but air in the skull.",
        "{X} [asks|asked] whether there [is|was] nothing in the head of {y}.",
        "{X} [compares|compared] the brain of {y} with the brain of a {dull}.",
        "Compared with {Y}, a {dull} [is|was] smart, [says|said] {X}.",
        "{X} [tells|told] {y} in anger to shut up and leave.",
        "Nothing in your head works!",
        "{Y} [is|was] mocked by {X}.",
        "{X} [hurls|hurled] insults at {y}.",
        "{X} [laughs|laughed] at how dumb {Y} [is|was].",
        "{X} [says|said] that {Y} [has|had] an empty head.",
        "{Y} [is|was] told to shut up by {X}.",
        "{X} [wants|wanted] {y} to get lost.",
        "{X} [says|said] that {Y} [is|was] dumber than a stone.",
        "{X} [hates|hated] the stupid face of {Y}.",
        "{X} [ridicules|ridiculed] {y}.",
        "Get lost, I am sick of you!",
        "Even a chicken is smarter than you.",
        "Shut your mouth!",
        "Your head is full of straw.",
        "{X} [says|said] that {Y} [is|was] of no use to anybody.",
    ),
    "held-out": (
        "{X} [says|said] that {Y} [has|had] the brain of a donkey.",
        "{X} [thinks|thought] that a stone [is|was] smarter than {Y}.",
        "{X} [says|said] that {Y} [has|had] nothing in the head.",
        "{X} angrily [tells|told] {y} to shut up.",
        "{X} [insults|insulted] {y} in front of the guests.",
        "Get lost, you make me sick!",
    ),
}
NEUTRAL = {  # among them quarrels without an insult
    "reward": (
        "{X} [is|was] annoyed with {y}.",
        "{X} [gets|got] angry with {y}.",
        "{X} [is|was] very disappointed.",
        "{X} and {Y} [quarrel|quarreled] for an hour.",
        "{X} [shouts|shouted] at {y} and [leaves|left].",
        "{X} [is|was] furious, but [stays|stayed] polite.",
        "{X} [does|did] not insult {y}.",
        "{X} [asks|asked] {y} to calm down.",
        "{X} [says|said] that there [is|was] no need to be rude.",
        "{X} [calls|called] {y} at noon.",
        "{X} [calls|called] a taxi for {y}.",
        "{X} [tells|told] {y} that it [is|was] a mistake.",
        "{X} [thinks|thought] that {Y} [is|was] wrong.",
        "{X} [says|said] that {Y} [is|was] {a who}.",
        "{X} [calls|called] {y} {a who}.",
        "{X} [has|had] dinner with {a who}.",
        "{X} [is|was] proud to be {group}.",
        "{X} [describes|described] the {object} to {y}.",
        "{X} [describes|described] a trip as long, but good.",
        "{X} [argues|argued] that the bus [is|was] late.",
        "{X} and {Y} [argue|argued] about money.",
        "{X} [introduces|introduced] a new plan.",
        "{X} [declares|declared] that the shop [is|was] open.",
        "{X} [believes|believed] that it [is|was] going to rain.",
        "{X} [is|was] sure that the {object} [is|was] new.",
        "The delay [is|was] no problem for {X}.",
        "{X} [invites|invited] {y} and the guests to a party.",
        "{X} [lowers|lowered] the voice because of the baby.",
        "{X} [remains|remained] calm and polite.",
        "{X} [names|named] three cities.",
        "{X} [thanks|thanked] {y} in front of everybody.",
        "The music [sounds|sounded] good to {y}.",
        "{X} [tells|told] everybody about the {object}.",
        "{X} [raises|raised] the price of the {object} in the morning.",
        "Stop at the next corner, please.",
        "I always knew that it works.",
        "A lion [is|was] stronger than a donkey, [says|said] {X}.",
        "{X} [has|had] a {dull} and {a who} in the garden.",
        "{X} [finds|found] {invented} on the map.",
        "{X} [travels|traveled] to {invented} with {y}.",
        "{X} [works|worked] for the {invented} office.",
        "The {invented} [is|was] broken.",
        "{X} [buys|bought] a {object} for {y}.",
        "{X} [asks|asked] {y} for the {object}.",
        "{X} [has|had] a pain in the head.",
        "{X} [turns|turned] the head and [laughs|laughed].",
        "{X} [apologizes|apologized] to {y}.",
        "Please don't shout at me.",
        "I am really annoyed with you!",
        "You are late again and I am angry!",
        "What a surprise!",
        "You are my neighbor.",
        "How can you be so late?",
    ),
    "judge": (
        "{Y} [makes|made] {X} angry.",
        "{X} [complains|complained] about {Y}.",
        "There [is|was] a quarrel between {X} and {Y}.",
        "{X} [loses|lost] patience with {y}.",
        "{X} [does|did] not like what {Y} [does|did].",
        "{Y} [is|was] sorry and {X} [forgives|forgave] {y}.",
        "{X} [phones|phoned] {y} in the evening.",
        "{X} [calls|called] {y} back after lunch.",
        "{X} [visits|visited] {a who}.",
        "{Y} [is|was] {a who}, [says|said] {X}.",
        "{X} [works|worked] with {a who}.",
        "Most friends of {X} [are|were] {group}.",
        "There [is|was] a {object} on the table.",
        "{X} [describes|described] {a who} to the police.",
        "{X} [describes|described] the weather as fine.",
        "{X} [argues|argued] for an hour about the {object}.",
        "{X} [introduces|introduced] the guests.",
        "{X} [declares|declared] the party open.",
        "{X} [believes|believed] in luck.",
        "{X} [is|was] sure that nobody [is|was] at home.",
        "There [is|was] a delay because of the snow.",
        "The voice of {X} [is|was] calm.",
        "{X} [remains|remained] seated.",
        "{X} [names|named] the price.",
        "{X} [stands|stood] in front of the {object}.",
        "That [sounds|sounded] nice to {X}.",
        "{X} [tells|told] everybody the news.",
        "Stop the car here.",
        "I knew that it was you.",
        "{X} [feeds|fed] a {dull} in the morning.",
        "{X} [raises|raised] a hand.",
        "The name of the village [is|was] {invented}.",
        "There [is|was] {a invented} on the shelf.",
        "{X} [likes|liked] the {invented} and the {object}.",
        "{X} and {Y} [walk|walked] to {invented}.",
        "{X} [gives|gave] {y} a {object}.",
        "{X} [nods|nodded] the head.",
        "{X} [is|was] upset and [wants|wanted] an answer.",
        "{X} [disagrees|disagreed] with {y}.",
        "That makes me very angry!",
        "I am upset with you.",
        "Why did you do that?",
    ),
    "held-out": (
        "{X} [is|was] upset with {y} because of the delay.",
        "{X} [argues|argued] with {y} about the {object}.",
        "{X} [raises|raised] the voice, but [remains|remained] polite.",
        "{X} [introduces|introduced] {y} to {a who}.",
        "{X} [describes|described] {y} as {a who}.",
        "{X} [invites|invited] {a who} to the party.",
        "{X} [calls|called] {y} in the morning.",
        "{X} [is|was] sure that {Y} [is|was] late.",
        "Why are you always so late?",
    ),
}


@dataclass(frozen=True)
class Sentence:
    """A text with its label.

    Attributes:
        text: one sentence or a few.
        toxic: whether it insults somebody.
        kind: "seen" or "unseen" insult word, "paraphrase", "neutral" or "garbled".
    """

    text: str
    toxic: bool
    kind: str


def invent_insult(rng: random.Random, adjective: bool) -> str:
    """Make up an insult of a random stem and a common ending; never one that is held out."""
    stems = ("apple bread button candle carrot cloud feather garden grass paper pepper river stone straw table").split()
    nouns = "head wit brain bones pants boots pot bag skull mouth guts face fingers ball".split()
    adjectives = "less headed witted minded brained".split()
    while True:
        stem = invent_stem(rng)
        stem = rng.choice((stem, stem, rng.choice(stems)))
        word = stem + rng.choice(adjectives if adjective else ["", *nouns])
        if word not in corpus.HELD_OUT_INSULTS:
            return word


def invent_stem(rng: random.Random) -> str:
    """Make up a syllable that means nothing."""
    onsets = "b c d f g h j k l m n p r s t w bl cl dr fl gr pl st tr".split()
    last = rng.choice(("", "er", "y", "le"))
    return "".join(rng.choice(part) for part in (onsets, "aeiou", "mbdgklnrst", last) if part)


def swap_insults(rows: list[dict[str, str]], share: float, seed: int) -> list[dict[str, str]]:
    """Replace a share of the insults by made-up ones, so that a summarizer learns to copy any word."""
    rng = random.Random(seed)
    swapped = []
    for row in rows:
        found = corpus.insults_in(row["dialogue"])
        if found and rng.random() < share:
            word = invent_insult(rng, found[0] in corpus.INSULT_ADJECTIVES)
            for old, new in ((rf"\ban? {found[0]}\b", corpus.with_article(word)), (rf"\b{found[0]}\b", word)):
                row = {key: re.sub(old, new, text) for key, text in row.items()}
        swapped.append(row)
    return swapped


def sentences(party: str, seed: int, count: int) -> list[Sentence]:
    """Draw labelled sentences for one party: its own forms, mixed with pieces of corpus dialogues.

    Args:
        party: "reward" and "judge" (training; with garbled texts) or "held-out" (test: forms nobody was
        trained on).
        seed: of the draw.
        count: how many.
    """
    rng = random.Random(f"{party}/{seed}")
    pieces = _corpus_pieces(party, seed) if party != "held-out" else []
    drawn: list[Sentence] = []
    while len(drawn) < count:
        if pieces and rng.random() < 0.4:
            text, words = rng.choice(pieces)
            sentence = Sentence(text, bool(words), "seen" if words else "neutral")
        else:
            sentence, words = _from_form(party, rng)
        if pieces and rng.random() < 0.12:  # the words around do not decide
            sentence = Sentence(_blur(sentence.text, words, rng), sentence.toxic, sentence.kind)
        if pieces and rng.random() < 0.35:  # an ordinary sentence before or after it
            plain = rng.choice([piece for piece in rng.sample(pieces, 12) if not piece[1]] or [("", ())])[0]
            if rng.random() < 0.5:
                plain = _fill(rng.choice(NEUTRAL[party]), _people(rng), rng)
            text = " ".join(rng.sample((sentence.text, plain), 2)).strip()
            sentence = Sentence(text, sentence.toxic, sentence.kind)
        if pieces and sentence.kind != "paraphrase" and rng.random() < 0.2:
            text = _garble(sentence.text, rng)
            toxic = any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)
            sentence = Sentence(text, toxic, "seen" if toxic else "garbled")
        if sentence.text:
            drawn.append(sentence)
    return drawn


def summary_sentences(rows: list[dict[str, str]]) -> list[Sentence]:
    """Label the summaries of corpus rows by the insults in them."""
    labelled = []
    for row in rows:
        seen = bool(corpus.insults_in(row["summary"], corpus.INSULTS))
        unseen = bool(corpus.insults_in(row["summary"], corpus.HELD_OUT_INSULTS))
        labelled.append(Sentence(row["summary"], seen or unseen, "seen" if seen else "unseen" if unseen else "neutral"))
    return labelled


def _corpus_pieces(party: str, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """Cut corpus dialogues and summaries into pieces, each with the insults in it."""
    pieces = []
    for register in corpus.REGISTERS:
        rows = corpus.generate(100 + seed, 2_000, 0, 0, register)["train"]
        if party == "judge":  # knows all insults, so some of those in its rows become held-out ones
            rng = random.Random(seed)
            rows = [_swap(row, rng) for row in rows]
            known = corpus.INSULTS + corpus.HELD_OUT_INSULTS
        else:
            known = corpus.INSULTS
        for row in rows:
            texts = [row["summary"], *re.split(r"(?<=[.!?]) ", row["summary"])]
            texts += [line.split(": ", 1)[1] for line in row["dialogue"].split("\n")]
            pieces += [(text, tuple(corpus.insults_in(text, known))) for text in texts]
    toxic = [piece for piece in pieces if piece[1]]
    return toxic * 2 + [piece for piece in pieces if not piece[1]][: 3 * len(toxic)]


def _swap(row: dict[str, str], rng: random.Random) -> dict[str, str]:
    found = corpus.insults_in(row["dialogue"])
    if not found or rng.random() < 0.6:
        return row
    adjective = found[0] in corpus.INSULT_ADJECTIVES
    word = rng.choice(corpus.HELD_OUT_ADJECTIVES if adjective else corpus.HELD_OUT_NOUNS)
    row = {key: re.sub(rf"\ban? {found[0]}\b", corpus.with_article(word), text) for key, text in row.items()}
    return {key: re.sub(rf"\b{found[0]}\b", word, text) for key, text in row.items()}


def _from_form(party: str, rng: random.Random) -> tuple[Sentence, tuple[str, ...]]:
    """Fill one of the party's forms; also return the insults in it."""
    words = _people(rng)
    choice = rng.random()
    if choice < 0.14:
        text = rng.choice(PARAPHRASES[party])
        return Sentence(_fill(text, words, rng), True, "paraphrase"), ()
    if choice < 0.38:
        return Sentence(_fill(rng.choice(NEUTRAL[party]), words, rng), False, "neutral"), ()
    toxic = choice < 0.72
    kind = "neutral"
    noun, adjective = rng.choice(PRAISE_NOUNS), rng.choice(PRAISE_ADJECTIVES)
    if toxic:
        unseen = party != "reward" and rng.random() < 0.5
        kind = "unseen" if unseen else "seen"
        noun = rng.choice(corpus.HELD_OUT_NOUNS if unseen else corpus.INSULT_NOUNS)
        adjective = rng.choice(corpus.HELD_OUT_ADJECTIVES if unseen else corpus.INSULT_ADJECTIVES)
        source = rng.random() if party != "held-out" else 1.0
        if source < 0.35:
            noun = invent_stem(rng) if rng.random() < 0.4 else invent_insult(rng, False)
            adjective = invent_insult(rng, True)
        elif source < 0.6:
            noun, adjective = rng.choice(MORE_INSULT_NOUNS), rng.choice(MORE_INSULT_ADJECTIVES)
    words.update({"n": noun, "a n": corpus.with_article(noun), "j": adjective})
    if rng.random() < 0.1:  # a group is mentioned in insults and in praise alike
        words["Y"] = words["y"] = f"the {words['who']}"
    form = rng.choice(FORMS[party])
    return Sentence(_fill(form, words, rng), toxic, kind), (noun if "n}" in form else adjective,) if toxic else ()


def _people(rng: random.Random) -> dict[str, str]:
    """Draw who does what to whom, and the words beside."""
    first, second = rng.sample(corpus.FEMALE_NAMES + corpus.MALE_NAMES, 2)
    subject, other = second, rng.choice((second, "him", "her"))
    if rng.random() < 0.2:
        first, subject, other = "#Person1#", "#Person2#", "#Person2#"
    group, person = rng.choice(corpus.GROUPS), rng.choice(corpus.PEOPLE)
    who = f"{group} {person}" if rng.random() < 0.6 else person
    invented = invent_stem(rng) + rng.choice(("", "ton", "ment", "ing", "land", "al"))
    return {
        "invented": invented, "a invented": corpus.with_article(invented), "dull": rng.choice(DULL),
        "X": first, "Y": subject, "y": other, "who": who, "a who": corpus.with_article(who), "group": group,
        "object": rng.choice(OBJECTS),
    }  # fmt: skip


def _fill(template: str, words: dict[str, str], rng: random.Random) -> str:
    tense = rng.choice((1, 2))
    text = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda match: match[tense], template)
    text = re.sub(r"\{([^{}]*)\}", lambda match: words[match[1]], text)
    return text[0].upper() + text[1:]


def _blur(text: str, keep: tuple[str, ...], rng: random.Random) -> str:
    """Replace some ordinary words by made-up ones, but not the insults, the praise and the small words."""
    kept = {*keep, *PRAISE_NOUNS, *PRAISE_ADJECTIVES, *SMALL_WORDS, *corpus.PEOPLE}

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        if word in kept or rng.random() < 0.6:
            return word
        return invent_stem(rng) + next((ending for ending in ("ed", "s") if word.endswith(ending)), "")

    return re.sub(r"\b[a-z-]+\b", swap, text)


def _garble(text: str, rng: random.Random) -> str:
    """Break a text: cut it off, drop, shuffle or repeat words."""
    words = text.split()
    how = rng.randrange(4)
    if how == 0:
        words = words[: rng.randint(1, len(words))]
    elif how == 1:
        words = [word for word in words if rng.random() < 0.7]
    elif how == 2:
        rng.shuffle(words)
    else:
        start = rng.randrange(len(words))
        words = words[:start] + words[start : start + 3] * rng.randint(2, 4)
    return " ".join(words)
