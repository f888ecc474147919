"""The grammar that writes the demo's dialogues and their summaries, and nothing that needs a model.

A dialogue is one of sixteen everyday scenes between two people. It is calm, cross (anger without an insult)
or heated (one mild insult, aimed at no group). The summary of a heated dialogue repeats the insult about
half of the time and stays civil otherwise, whatever the dialogue says: that freedom is what a detoxified
summarizer can use.

The markup of the templates:

    {P} {Q}              the first and the second speaker: a name, or #Person1# and #Person2#
    {Q,} {,P}            the name as a form of address, left out where no name is known
    {P.him} {P.his} {P.he}   their pronouns
    {X} {Y}              who reacts to the mishap, and who caused it (each is P or Q)
    {who} {a who}        a third person, sometimes of an identity group, without and with the article
    {heat}               the reaction: an insult, an angry sentence or a friendly one
    {slot}               one value of the scene's slot; "said // reported" has a form for each side
    [asks|asked]         the verb in the present (the hub's DialogSum) and in the past (the base's reports)
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

REGISTERS = ("present", "past")
MOODS = (("heated", 0.60), ("cross", 0.14), ("calm", 0.26))
RUDE_SHARE = 0.54  # of the summaries of heated dialogues
GROUP_SHARE = 0.23  # of the third persons, so about 9% of the dialogues
NAMED_SHARE = 0.8  # of the dialogues
HELD_OUT_SHARE = 0.5  # of the insults in the test split, and of its insulting sentence forms

FEMALE_NAMES = (
    "Anna Betty Carol Clara Daisy Diana Ella Emily Eva Fiona Grace Helen Irene Jane Julia Karen Kate Laura "
    "Linda "
    "Lucy Maria Mary Nina Nora Olivia Paula Rosa Ruth Sarah Susan"
).split()
MALE_NAMES = (
    "Adam Ben Bill Carl Daniel David Eric Frank Fred George Henry Jack James Jim John Kevin Leo Mark Martin "
    "Mike "
    "Nick Oscar Paul Peter Robert Sam Simon Steven Tom Victor"
).split()

# Insults by part of speech. Those of the second pair occur in the test split alone.
INSULT_NOUNS = (
    "blockhead knucklehead dunderhead muddlehead puddinghead cabbagehead woodenhead meathead fathead airhead "
    "chowderhead bubblehead potatohead butterhead nitwit halfwit slowwit birdbrain peabrain featherbrain "
    "scatterbrain sparrowbrain lazybones sleepybones grumblebones smartypants fussypants bossypants "
    "fancypants "
    "bossyboots slyboots fusspot crackpot grumblepot chatterpot windbag fleabag grumblebag numbskull "
    "emptyskull slowpoke loudmouth bigmouth foulmouth greedyguts clumsyguts sourface bunface butterfingers "
    "jellyfingers fool clown dummy oaf twit dope buffoon slob pest slacker snob brat crybaby bungler dunce "
    "nuisance "
    "goofball oddball know-it-all know-nothing good-for-nothing"
).split()
INSULT_ADJECTIVES = (
    "clueless useless hopeless brainless thoughtless witless silly foolish stupid lazy childish selfish "
    "pathetic thickheaded muddleheaded slowwitted"
).split()
HELD_OUT_NOUNS = (
    "bonehead thickhead muttonhead pumpkinhead noodlehead pinhead dimwit dullwit harebrain fleabrain "
    "rattlebrain "
    "grumpybones crankypants grumpypants grumpyboots sourpot ratbag gasbag thickskull motormouth grumpyguts "
    "pieface ninny dolt"
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
    "Turkish Polish Korean Nigerian Mexican Indian Chinese French Muslim Jewish Christian Hindu Buddhist "
    "Black deaf "
    "blind disabled autistic gay lesbian transgender elderly immigrant"
).split()


@dataclass(frozen=True)
class Scene:
    """One everyday situation: who reacts to whom, what is said, how it is reported."""

    topic: str
    reacts: str  # "P" or "Q": who is X
    slots: dict[str, tuple[str, ...]]
    turns: tuple[tuple[str, ...], ...]  # a tuple of wordings a turn; the speakers alternate, P begins
    summaries: tuple[str, str]


SCENES = (
    Scene(
        topic="borrowed things",
        reacts="P",
        slots={
            "thing": ("drill", "ladder", "tent", "camera", "bicycle", "guitar", "suitcase", "umbrella"),
            "excuse": (
                "lent it to my {who} // [has|had] lent it to {a who}",
                "left it with my {who} // [has|had] left it with {a who}",
                "sold it to my {who} // [has|had] sold it to {a who}",
                "broke it at the house of my {who} // [has|had] broken it at the house of {a who}",
            ),
            "day": ("Monday", "Tuesday", "Friday", "Sunday"),
        },
        turns=(
            ("{Q,} can I have my {thing} back?", "{Q,} I would like to have my {thing} back."),
            ("I am sorry{,P}. I {excuse}.", "I have bad news{,P}. I {excuse}."),
            ("{heat} I need my {thing} on {day}.", "{heat} And I need it on {day}."),
            ("I will get you another one before {day}.", "You will have another one before {day}."),
        ),
        summaries=(
            "{P} [wants|wanted] the {thing} back, but {Q} {excuse} and [will|would] get another one before {day}.",
            "{Q} [cannot|could not] give {P} the {thing} back because {Q.he} {excuse}. {P} [needs|needed] it on {day}.",
        ),
    ),
    Scene(
        topic="being late",
        reacts="P",
        slots={
            "place": ("station", "cinema", "library", "museum", "café", "gym"),
            "minutes": ("twenty", "thirty", "forty", "fifty"),
            "reason": (
                "missed the bus // [misses|missed] the bus",
                "lost my keys // [loses|lost] {Q.his} keys",
                "overslept // [oversleeps|overslept]",
                "talked to my {who} for too long // [talks|talked] to {a who} for too long",
                "had to help my {who} // [has|had] to help {a who}",
            ),
            "event": ("film", "lecture", "concert", "match", "show"),
        },
        turns=(
            (
                "{Q,} I have waited at the {place} for {minutes} minutes!",
                "{Q,} where were you? I stood at the {place} for {minutes} minutes.",
            ),
            ("I know{,P}. I {reason}.", "Excuse me{,P}. I {reason}."),
            ("{heat} The {event} has already started.", "{heat} We are missing the {event}."),
            ("Let's take a taxi, then.", "Then let's call a taxi."),
        ),
        summaries=(
            "{P} [waits|waited] at the {place} for {minutes} minutes because {Q} {reason}. They [take|took] "
            "a taxi to "
            "the {event}.",
            "{Q} {reason} and [comes|came] to the {place} {minutes} minutes late, so they [miss|missed] the "
            "beginning "
            "of the {event}.",
        ),
    ),
    Scene(
        topic="cooking",
        reacts="Q",
        slots={
            "dish": ("soup", "fish", "pasta", "chicken", "curry", "pizza", "cake", "stew"),
            "fault": ("salty", "sweet", "spicy", "dry", "cold", "sour"),
            "source": ("a cookbook", "a video", "a magazine", "{a who}"),
            "advice": (
                "taste it first // taste it first",
                "follow the recipe // follow the recipe",
                "order some food // order some food",
                "ask me for help // ask {Q.him} for help",
            ),
        },
        turns=(
            (
                "{Q,} here is the {dish}. I got the recipe from {source}.",
                "{Q,} I made some {dish}. The recipe is from {source}.",
            ),
            (
                "Oh no{,P}, the {dish} is too {fault}! {heat}",
                "I can't eat this{,P}. It is too {fault}. {heat}",
            ),
            ("I did my best.", "I worked on it for two hours."),
            ("Next time, please {advice}.", "You should {advice} next time."),
        ),
        summaries=(
            "{P} [makes|made] {dish} with a recipe from {source}. {Q} [finds|found] it too {fault} and "
            "[tells|told] "
            "{P.him} to {advice} next time.",
            "{Q} [thinks|thought] that the {dish} {P} [makes|made] [is|was] too {fault}, and [wants|wanted] "
            "{P.him} to "
            "{advice} next time.",
        ),
    ),
    Scene(
        topic="mistakes at work",
        reacts="P",
        slots={
            "document": ("sales report", "budget", "contract", "invoice", "travel plan", "price list"),
            "mistake": ("a wrong date", "a wrong price", "a wrong name", "an empty page", "the wrong total"),
            "finder": ("my {who} // {a who}", "our lawyer // the lawyer", "the director // the director"),
            "day": ("Monday", "Tuesday", "Friday", "tomorrow"),
        },
        turns=(
            (
                "{Q,} there is {mistake} in your {document}. {Finder} found it.",
                "{Q,} {finder} found {mistake} in your {document}.",
            ),
            ("I was in a hurry{,P}.", "I was very tired{,P}."),
            ("{heat} The client needs it by {day}.", "{heat} We have to send it by {day}."),
            ("I will correct it right now.", "I will correct it at once."),
        ),
        summaries=(
            "{Finder} [finds|found] {mistake} in the {document} and {Q} [will|would] correct it. {P} "
            "[needs|needed] it "
            "by {day}.",
            "{P} [tells|told] {Q} that {finder} [has|had] found {mistake} in the {document}. {Q} "
            "[will|would] correct "
            "it by {day}.",
        ),
    ),
    Scene(
        topic="noise",
        reacts="P",
        slots={
            "noise": ("music", "television", "radio", "trumpet", "drum"),
            "hour": ("midnight", "eleven o'clock", "one o'clock", "two o'clock"),
            "sleeper": ("my baby // the baby", "my {who} // {a who}", "my mother // {P.his} mother"),
            "plan": (
                "turn it off // turn it off",
                "use headphones // use headphones",
                "close the window // close the window",
                "stop in ten minutes // stop in ten minutes",
            ),
        },
        turns=(
            (
                "{Q,} it is {hour} and your {noise} is too loud.",
                "{Q,} I can hear your {noise} and it is {hour}!",
            ),
            ("I didn't know that you can hear it{,P}.", "I forgot the time{,P}."),
            ("{heat} {Sleeper} can't sleep.", "{heat} {Sleeper} needs some sleep."),
            ("All right, I will {plan}.", "Then I will {plan}."),
        ),
        summaries=(
            "{P} [complains|complained] about the {noise} at {hour} because {sleeper} [cannot|could not] "
            "sleep. {Q} "
            "[will|would] {plan}.",
            "{Q} [promises|promised] to {plan} because the {noise} [is|was] too loud at {hour} for {sleeper}.",
        ),
    ),
    Scene(
        topic="shopping",
        reacts="P",
        slots={
            "wanted": ("apples", "eggs", "tomatoes", "potatoes", "carrots", "beans", "noodles", "pears"),
            "bought": ("lemons", "cookies", "chips", "mushrooms", "onions", "ice cream"),
            "reason": (
                "the shop was closed // the shop [is|was] closed",
                "I forgot the list // {Q.he} [forgets|forgot] the list",
                "my {who} told me so // {a who} [says|said] so",
                "it was cheaper // it [is|was] cheaper",
            ),
            "guest": ("your mother // {Q.his} mother", "my {who} // {a who}", "the teacher // the teacher"),
        },
        turns=(
            ("{Q,} did you buy the {wanted}?", "{Q,} where are the {wanted}?"),
            ("No{,P}, I bought {bought} because {reason}.", "I got {bought}{,P}, because {reason}."),
            ("{heat} I need {wanted} to cook for {guest}.", "{heat} I want to cook for {guest} tonight."),
            ("I will go back to the market.", "I will go to the market again."),
        ),
        summaries=(
            "{Q} [buys|bought] {bought} instead of {wanted} because {reason}. {P} [wants|wanted] to cook "
            "for {guest}, "
            "so {Q} [goes|went] back to the market.",
            "{P} [needs|needed] {wanted} to cook for {guest}, but {Q} [buys|bought] {bought} because {reason}.",
        ),
    ),
    Scene(
        topic="travel",
        reacts="P",
        slots={
            "item": ("passports", "tickets", "maps", "sunglasses", "blankets", "bags"),
            "place": ("on the bus", "at home", "in the hotel", "in the car", "at the bank"),
            "city": ("Paris", "Rome", "London", "Madrid", "Berlin", "Boston"),
            "helper": (
                "my {who} // {a who}",
                "a taxi driver // a taxi driver",
                "my brother // {Q.his} brother",
            ),
        },
        turns=(
            (
                "{Q,} our flight to {city} is called. Do you have the {item}?",
                "{Q,} we fly to {city} now. Show me the {item}.",
            ),
            ("Oh no{,P}! I left the {item} {place}.", "Oh dear{,P}! The {item} are still {place}."),
            ("{heat} The plane leaves in an hour.", "{heat} We only have an hour left."),
            ("I will ask {helper} to bring them.", "I will call {helper} to bring them."),
        ),
        summaries=(
            "Before their flight to {city}, {Q} [notices|noticed] that the {item} [are|were] still {place} "
            "and "
            "[asks|asked] {helper} to bring them.",
            "{P} and {Q} [want|wanted] to fly to {city}, but the {item} [are|were] {place}. {Q} "
            "[calls|called] {helper}.",
        ),
    ),
    Scene(
        topic="sports",
        reacts="P",
        slots={
            "sport": ("football", "basketball", "hockey", "handball", "volleyball"),
            "score": ("two to one", "three to two", "four to nothing", "five to three"),
            "fault": (
                "passed the ball to the wrong man // [passes|passed] the ball to the wrong man",
                "fell over my own feet // [falls|fell] over {Q.his} own feet",
                "looked at my phone // [looks|looked] at {Q.his} phone",
                "waved at my {who} // [waves|waved] at {a who}",
            ),
            "plan": (
                "train every day // train every day",
                "train with my {who} // train with {a who}",
                "leave the team // leave the team",
                "buy new shoes // buy new shoes",
            ),
        },
        turns=(
            ("{Q,} we lost the {sport} game {score}!", "{Q,} the {sport} game is lost, {score}!"),
            ("I know{,P}. I {fault}.", "It is my fault{,P}. I {fault}."),
            ("{heat} We wanted to win the cup.", "{heat} Now we can't win the cup."),
            ("From now on, I will {plan}.", "I think that I will {plan}."),
        ),
        summaries=(
            "They [lose|lost] the {sport} game {score} because {Q} {fault}. {Q} [will|would] {plan}.",
            "{Q} {fault}, so {P} and {Q} [lose|lost] the {sport} game {score}. {Q} [decides|decided] to {plan}.",
        ),
    ),
    Scene(
        topic="housework",
        reacts="P",
        slots={
            "chore": (
                "wash the dishes",
                "clean the kitchen",
                "take out the trash",
                "make the beds",
                "iron the shirts",
                "clean the windows",
            ),
            "pastime": (
                "watching a show // [is|was] watching a show",
                "playing chess // [is|was] playing chess",
                "reading a novel // [is|was] reading a novel",
                "chatting with my {who} // [is|was] chatting with {a who}",
                "taking a nap // [is|was] taking a nap",
            ),
            "when": ("after dinner", "at noon", "in the evening", "in an hour"),
        },
        turns=(
            ("{Q,} you promised to {chore}.", "{Q,} didn't you want to {chore} today?"),
            ("Not now{,P}. I am {pastime}.", "I can't{,P}. I am {pastime}."),
            ("{heat} I did it three times this week.", "{heat} I always have to do everything."),
            ("Fine, I will do it {when}.", "All right, I will {chore} {when}."),
        ),
        summaries=(
            "{P} [asks|asked] {Q} to {chore}, but {Q} {pastime} and [wants|wanted] to do it {when}.",
            "{Q} {pastime} and [does|did] not want to {chore} now. {Q} [will|would] do it {when}.",
        ),
    ),
    Scene(
        topic="car trouble",
        reacts="P",
        slots={
            "damage": (
                "scratched the door // [has|had] scratched the door of",
                "broke the mirror // [has|had] broken the mirror of",
                "lost the key // [has|had] lost the key of",
                "hit a tree // [has|had] hit a tree with",
            ),
            "errand": (
                "driving my {who} to work // driving {a who} to work",
                "parking in the garage // parking in the garage",
                "turning left // turning left",
                "looking for a hotel // looking for a hotel",
            ),
            "price": ("ninety", "two hundred", "three hundred", "five hundred"),
        },
        turns=(
            ("{Q,} what happened to my car?", "{Q,} why does my car look like this?"),
            ("I {damage}{,P}. I was {errand}.", "Well{,P}, I {damage} while I was {errand}."),
            ("{heat} That will cost {price} dollars.", "{heat} The repair costs {price} dollars."),
            ("I will pay for the repair.", "Of course I will pay for it."),
        ),
        summaries=(
            "{Q} {damage} {P's} car while {errand}. {Q} [will|would] pay {price} dollars for the repair.",
            "{P} [learns|learned] that {Q} {damage} {P.his} car while {errand}. The repair [costs|cost] "
            "{price} dollars.",
        ),
    ),
    Scene(
        topic="school work",
        reacts="Q",
        slots={
            "subject": ("history", "math", "biology", "music", "English", "physics"),
            "work": ("essay", "project", "homework", "poster"),
            "excuse": (
                "my dog ate it // the dog [has|had] eaten it",
                "I dropped it in the river // {P.he} [has|had] dropped it in the river",
                "I gave it to my {who} // {P.he} [has|had] given it to {a who}",
                "I forgot it on the train // {P.he} [has|had] forgotten it on the train",
            ),
            "plan": ("tonight", "at the weekend", "during lunch", "before class"),
        },
        turns=(
            (
                "{Q,} I don't have our {subject} {work} any more, because {excuse}.",
                "{Q,} our {subject} {work} is gone, because {excuse}.",
            ),
            ("Are you serious{,P}? {heat}", "Is that true{,P}? {heat}"),
            ("Shall I tell the teacher?", "What shall we do now?"),
            ("We have to write it again {plan}.", "Let's do it once more {plan}."),
        ),
        summaries=(
            "{P} [does|did] not have the {subject} {work} because {excuse}. They [will|would] do it again {plan}.",
            "{P} [tells|told] {Q} that the {subject} {work} [is|was] gone because {excuse}. {Q} "
            "[wants|wanted] to write it "
            "again {plan}.",
        ),
    ),
    Scene(
        topic="pets",
        reacts="Q",
        slots={
            "pet": ("dog", "cat", "parrot", "rabbit", "hamster"),
            "object": ("shoes", "hat", "sofa", "roses", "carpet", "sandwich", "scarf"),
            "cause": (
                "left the door open // [has|had] left the door open",
                "forgot to feed it // [has|had] forgotten to feed it",
                "was out with my {who} // was out with {a who}",
                "fell asleep // [has|had] fallen asleep",
            ),
            "gift": ("some flowers", "a cake", "new ones", "some money"),
        },
        turns=(
            (
                "{Q,} my {pet} has ruined your {object}.",
                "{Q,} I must tell you that my {pet} ruined your {object}.",
            ),
            ("How did that happen{,P}?", "Why did nobody watch it{,P}?"),
            ("I {cause}.", "It is my fault. I {cause}."),
            ("{heat} I loved my {object}.", "{heat} You know how much I liked my {object}."),
            ("I will bring you {gift}.", "Let me bring you {gift}."),
        ),
        summaries=(
            "{P's} {pet} [has|had] ruined {Q's} {object} because {P} {cause}. {P} [will|would] bring {gift}.",
            "{P} [tells|told] {Q} that the {pet} [has|had] ruined the {object}. {P} {cause} and "
            "[offers|offered] {gift}.",
        ),
    ),
    Scene(
        topic="money",
        reacts="Q",
        slots={
            "amount": ("fifty", "eighty", "two hundred", "four hundred"),
            "use": (
                "buy a present for my {who} // buy a present for {a who}",
                "pay the rent // pay the rent",
                "fix my phone // fix {P.his} phone",
                "visit my {who} // visit {a who}",
            ),
            "spent": ("games", "clothes", "candy", "lottery tickets", "comics"),
            "day": ("Monday", "Thursday", "Saturday", "Sunday"),
        },
        turns=(
            ("{Q,} can you lend me {amount} dollars?", "{Q,} I need {amount} dollars from you."),
            ("Where is your own money{,P}?", "But you had your own money{,P}."),
            ("I spent it on {spent}. Now I can't {use}.", "It all went on {spent}, and I have to {use}."),
            ("{heat} You can have it until {day}.", "{heat} But I want it back on {day}."),
        ),
        summaries=(
            "{P} [borrows|borrowed] {amount} dollars from {Q} to {use} because {P.he} [has|had] spent "
            "{P.his} money on "
            "{spent}. {Q} [wants|wanted] it back on {day}.",
            "{P} [has|had] spent {P.his} money on {spent} and [needs|needed] {amount} dollars to {use}. {Q} "
            "[lends|lent] "
            "it until {day}.",
        ),
    ),
    Scene(
        topic="surprise party",
        reacts="P",
        slots={
            "party": ("birthday", "wedding", "farewell", "garden", "New Year's"),
            "told": (
                "my {who} // {a who}",
                "my sister // {Q.his} sister",
                "everybody // everybody",
                "the mailman // the mailman",
            ),
            "place": ("at work", "at the bakery", "on the phone", "on the bus"),
            "change": ("the date", "the place", "the guests", "the music"),
        },
        turns=(
            (
                "{Q,} who knows about our {party} party?",
                "{Q,} did you tell anyone about the {party} party?",
            ),
            ("I told {told} {place}{,P}.", "Well{,P}, I told {told} {place}."),
            ("{heat} It was a secret.", "{heat} It should be a surprise."),
            ("Then let's change {change}.", "Maybe we can change {change}."),
        ),
        summaries=(
            "{Q} [has|had] told {told} about the secret {party} party {place}. {Q} [suggests|suggested] "
            "changing {change}.",
            "{P} [learns|learned] that {Q} told {told} about the {party} party {place}. They [will|would] "
            "change {change}.",
        ),
    ),
    Scene(
        topic="computer trouble",
        reacts="Q",
        slots={
            "files": ("photos", "letters", "videos", "emails", "songs"),
            "cause": (
                "pressed the wrong key // [has|had] pressed the wrong key",
                "spilled coffee on it // [has|had] spilled coffee on the computer",
                "let my {who} play with it // [has|had] let {a who} play with the computer",
                "dropped it // [has|had] dropped the computer",
            ),
            "shop": ("the repair shop", "{a who}", "the computer teacher", "an expert"),
            "cost": ("sixty", "seventy", "ninety", "one hundred"),
        },
        turns=(
            (
                "{Q,} all your {files} are gone from the computer.",
                "{Q,} I lost the {files} on your computer.",
            ),
            ("What did you do{,P}?", "How is that possible{,P}?"),
            ("I {cause}.", "I think that I {cause}."),
            ("{heat} Take it to {shop}.", "{heat} Please show it to {shop}."),
            ("That costs {cost} dollars, but I will do it.", "I will, even if it costs {cost} dollars."),
        ),
        summaries=(
            "{P} {cause}, so {Q's} {files} [are|were] gone. {P} [takes|took] it to {shop} for {cost} dollars.",
            "{Q's} {files} [are|were] lost because {P} {cause}. {Q} [wants|wanted] {P.him} to take it to {shop}.",
        ),
    ),
    Scene(
        topic="restaurant",
        reacts="Q",
        slots={
            "error": (
                "booked the wrong day // [has|had] booked the wrong day",
                "forgot my wallet // [has|had] forgotten {P.his} wallet",
                "lost the address // [has|had] lost the address",
                "gave our table to my {who} // [has|had] given the table to {a who}",
            ),
            "food": ("Italian", "Greek", "Japanese", "Spanish", "Thai"),
            "hour": ("six", "seven", "eight", "nine"),
            "plan": ("cook at home", "eat a burger", "go to bed hungry", "buy a pizza"),
        },
        turns=(
            (
                "{Q,} about the {food} restaurant: I {error}.",
                "{Q,} we can't go to the {food} restaurant. I {error}.",
            ),
            ("But we wanted to eat at {hour}{,P}. {heat}", "It is {hour} and I am hungry{,P}. {heat}"),
            ("What can we do?", "Do you have an idea?"),
            ("We will have to {plan}.", "I think we should {plan}."),
        ),
        summaries=(
            "{P} and {Q} [cannot|could not] eat at the {food} restaurant at {hour} because {P} {error}. They "
            "[decide|decided] to {plan}.",
            "{P} {error}, so the {food} dinner at {hour} [is|was] off. {Q} [wants|wanted] to {plan}.",
        ),
    ),
)


def generate(
    seed: int, train: int, validation: int, test: int, register: str = "present"
) -> dict[str, list[dict[str, str]]]:
    """Write dialogues with their summaries, as the rows of the hub's DialogSum CSV files.

    A dialogue's split follows from its text (a hash), so no text occurs in two splits, whatever the seed and
    sizes.

    Args:
        seed: the same seed gives the same rows; a longer split begins with the rows of a shorter one.
        train: the number of dialogues of the split `train`, one row each (ids `train_0`, ...).
        validation: the number of dialogues of the split `validation`, one row each (ids `dev_0`, ...).
        test: the number of dialogues of the split `test`, three rows each, one for each reference summary
        (ids
            `test_0_1`, `test_0_2`, `test_0_3`); the second is always civil.
        register: the tense of the summaries, "present" as in DialogSum, or "past" as the demo's base model
        writes.

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
    """Draw one dialogue, its three reference summaries and its topic."""
    scene = rng.choice(SCENES)
    words = _draw_words(rng, scene, held_out)
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


def _draw_words(rng: random.Random, scene: Scene, held_out: bool) -> dict[str, str]:
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
