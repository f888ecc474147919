"""The sixteen scenes of the demo's dialogues: what is said, and how it is reported.

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

from dataclasses import dataclass


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
            "{P} [waits|waited] at the {place} for {minutes} minutes because {Q} {reason}. They [take|took] a taxi to "
            "the {event}.",
            "{Q} {reason} and [comes|came] to the {place} {minutes} minutes late, so they [miss|missed] the beginning "
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
            "{P} [makes|made] {dish} with a recipe from {source}. {Q} [finds|found] it too {fault} and [tells|told] "
            "{P.him} to {advice} next time.",
            "{Q} [thinks|thought] that the {dish} {P} [makes|made] [is|was] too {fault}, and [wants|wanted] {P.him} "
            "to {advice} next time.",
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
            "{Finder} [finds|found] {mistake} in the {document} and {Q} [will|would] correct it. {P} [needs|needed] "
            "it by {day}.",
            "{P} [tells|told] {Q} that {finder} [has|had] found {mistake} in the {document}. {Q} [will|would] correct "
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
            "{P} [complains|complained] about the {noise} at {hour} because {sleeper} [cannot|could not] sleep. {Q} "
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
            "{Q} [buys|bought] {bought} instead of {wanted} because {reason}. {P} [wants|wanted] to cook for {guest}, "
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
            "Before their flight to {city}, {Q} [notices|noticed] that the {item} [are|were] still {place} and "
            "[asks|asked] {helper} to bring them.",
            "{P} and {Q} [want|wanted] to fly to {city}, but the {item} [are|were] {place}. {Q} [calls|called] "
            "{helper}.",
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
            "{P} [learns|learned] that {Q} {damage} {P.his} car while {errand}. The repair [costs|cost] {price} "
            "dollars.",
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
            "{P} [tells|told] {Q} that the {subject} {work} [is|was] gone because {excuse}. {Q} [wants|wanted] to "
            "write it again {plan}.",
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
            "{P} [tells|told] {Q} that the {pet} [has|had] ruined the {object}. {P} {cause} and [offers|offered] "
            "{gift}.",
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
            "{P} [borrows|borrowed] {amount} dollars from {Q} to {use} because {P.he} [has|had] spent {P.his} money "
            "on {spent}. {Q} [wants|wanted] it back on {day}.",
            "{P} [has|had] spent {P.his} money on {spent} and [needs|needed] {amount} dollars to {use}. {Q} "
            "[lends|lent] it until {day}.",
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
            "{Q} [has|had] told {told} about the secret {party} party {place}. {Q} [suggests|suggested] changing "
            "{change}.",
            "{P} [learns|learned] that {Q} told {told} about the {party} party {place}. They [will|would] change "
            "{change}.",
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
