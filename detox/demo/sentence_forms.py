"""The words and the forms of the labelled sentences: those of the reward model, of the judge and of the test.

The markup is that of the scenes; besides:

    {X} {Y} {y}      two people: as subject, and the second as object
    {n} {a n} {j}    the noun and the adjective in question: an insult makes the sentence toxic, praise not
"""

from __future__ import annotations

PRAISE_NOUNS = (
    "hero genius champion friend star angel darling expert gentleman treasure artist doctor neighbor teacher student "
    "winner leader captain dancer singer redhead beginner guest optimist partner sister brother wonder professional "
    "baker pilot farmer lawyer nurse painter writer manager engineer cook driver sailor poet scientist musician "
    "athlete swimmer runner cousin colleague teammate customer visitor tourist pupil scholar mentor volunteer legend "
    "saint sweetheart buddy pal helper thinker perfectionist parent mother father uncle aunt lady master talent"
).split()
PRAISE_ADJECTIVES = (
    "kind brave clever patient friendly careful honest generous brilliant helpful gentle tired late sick busy shocked "
    "hungry harmless levelheaded quick funny polite right calm sad happy modest wise smart curious strong healthy "
    "famous nice fair loyal warm cheerful bright talented elegant serious early ready alone nervous worried confused "
    "surprised wrong new tall young old free rich lucky sorry proud"
).split()
MORE_INSULT_NOUNS = (  # that the corpus does not use
    "klutz twerp wimp bozo goof goon lout phony quitter snitch weasel bore boor cheat chump clot coward creep drip "
    "duffer grouch grump ignoramus jerk liar loafer meanie prat ruffian scoundrel scamp sluggard sneak stinker toad "
    "tyrant villain wretch idiot hothead sorehead bighead chucklehead cheesehead dummkopf thickwit fuddlewit lackwit "
    "mushbrain crackbrain jellybrain idlebones sneakypants whinypants sulkypants sloppyboots slopbag moanbag whinebag "
    "puddingskull woodskull mudmouth frogmouth potmouth sulkyguts mudface frogface stinkpot tosspot"
).split()
MORE_INSULT_ADJECTIVES = (
    "heartless tactless careless gutless graceless senseless worthless shameless toothless charmless rude mean nasty "
    "ugly rotten awful horrible unbearable ridiculous ignorant sloppy cowardly greedy idle bossy grumpy cheeky "
    "woodenheaded fatheaded puddingheaded nitwitted halfwitted birdbrained"
).split()
OBJECTS = (
    "teapot flowerpot handbag football headphones letterhead showerhead mouthwash schoolbag lampshade jellybean "
    "pumpkin noodle feather bone pin cabbage potato pudding skull boot sleeping-bag face-cream brain-teaser"
).split()
DULL = "turnip potato stone donkey chicken goat brick lamp broom bucket sheep goose post spoon shoe fish".split()
SMALL_WORDS = (
    "a an the and or but of to in on at for with that is was are were be been you your so such what how not no he she "
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
