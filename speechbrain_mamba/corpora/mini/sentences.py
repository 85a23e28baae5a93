"""English sentences of everyday topics for the embedded corpus: written by hand, and grown from a small grammar."""

from __future__ import annotations

import re

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# A symbol with its alternatives, separated by bars; a name in angle brackets stands for a symbol.
GRAMMAR = """\
sentence: <home> | <kitchen> | <garden> | <town> | <work> | <travel> | <weather> | <music> | <sport> | <talk> | <shop>
who: my sister | my brother | our neighbour | the old man | the young woman | a friend of mine | the teacher | the
    doctor | her uncle | his cousin | the children | two boys | the girl next door | my grandmother | the farmer | the
    captain | a stranger | our guest
when: this morning | yesterday | on monday | last tuesday | on friday evening | at noon | after lunch | before dawn |
    in the afternoon | every summer | last winter | in early spring | at midnight | on sunday | an hour ago
size: small | large | heavy | tiny | long | round | broken | beautiful | strange | simple
colour: red | blue | green | yellow | brown | white | black | grey | golden
number: two | three | four | five | six | seven | eight | nine | ten | twelve | twenty
home: <who> painted the <room> <colour> <when> | <who> left the <thing> <place> | <who> looked for the <thing> <place>
    | the <colour> <thing> <place> belongs to <who> | please put the <size> <thing> back <place> | <who> cleaned the
    <room> and opened the windows
room: kitchen | bedroom | hallway | bathroom | cellar | attic | garage | living room
thing: box | key | lamp | umbrella | candle | mirror | blanket | basket | clock | hammer | coat | camera | cup |
    bottle
place: under the stairs | on the shelf | behind the door | near the fireplace | in the cupboard | beside the bed | on
    the kitchen table | in the bottom drawer
kitchen: <who> cooked <meal> with <food> <when> | <who> bought <number> <fruit> and some <food> | there is fresh
    <food> with <food> for <who> | add a little <spice> to the <meal> before you serve it | the <meal> tasted of
    <spice> and <spice> | <who> baked a <size> cake with <fruit>
meal: soup | dinner | breakfast | stew | rice | supper | noodles
food: bread | cheese | butter | fish | chicken | potatoes | beans | cream | mushrooms | honey
fruit: apples | pears | lemons | cherries | plums | oranges | berries | peaches
spice: salt | pepper | garlic | ginger | sugar | vinegar | cinnamon
garden: <who> planted <number> <plant> <spot> | the <animal> slept <spot> <when> | a <colour> <animal> ran across the
    <field> | <who> saw <number> <animal>s <spot> | the <plant> <spot> grew taller than <who> | every <plant_one> in
    the <field> turned <colour>
plant: roses | tomatoes | tulips | trees | carrots | sunflowers | bushes
plant_one: leaf | flower | branch | tree | bush
spot: by the pond | along the fence | behind the barn | near the old gate | under the oak | beside the path
animal: horse | dog | cat | rabbit | squirrel | duck | goat | hedgehog | crow | donkey
field: meadow | orchard | yard | field | park | valley
town: the <building> was closed <when> | <who> worked at the <building> near the <landmark> | turn left at the
    <building> and walk towards the <landmark> | a <size> <building> stands between the <landmark> and the <landmark>
    | <who> waited outside the <building> for <number> minutes | they met at the <landmark> <when>
building: library | bakery | museum | hospital | school | theatre | station | market | bank | church
landmark: bridge | river | tower | harbour | fountain | square | statue | lighthouse
work: <who> wrote <number> <paper> <when> | the <job> fixed the <machine> in <number> minutes | the <machine> stopped
    working <when> | send the <paper> to the <job> before <number> | a good <job> never forgets the <paper> | <who>
    borrowed the <machine> from the <job>
paper: letters | reports | notes | pages | drawings | bills
job: plumber | engineer | lawyer | nurse | painter | manager | tailor | carpenter
machine: printer | engine | radio | heater | computer | drill | washing machine | telephone
travel: the <vehicle> to <where> leaves in <number> minutes | <who> took the <vehicle> to <where> <when> | we missed
    the <vehicle> and walked <number> miles to <where> | it takes <number> hours by <vehicle> to reach <where> | <who>
    dreamed of sailing to <where>
vehicle: train | bus | ferry | plane | boat | night train | coach
where: the coast | the mountains | the capital | the islands | the border | the north | the village
weather: the <sky> came over <where> <when> | it will be <warmth> and <damp> in <where> | after the <sky> the air was
    <warmth> and <damp> | <who> stayed indoors because of the <sky> | how <warmth> it was <when>
sky: storm | fog | thunder | snow | heavy rain | strong wind | frost
warmth: warm | cold | mild | cool | hot | chilly
damp: dry | wet | windy | cloudy | sunny | clear
music: <who> played the <instrument> <when> | the <instrument> sounded <mood> in the <building> | can you hear the
    <instrument> and the <instrument> | <who> sang a <mood> song about <where> | nobody plays the <instrument> as well
    as <who>
instrument: piano | violin | flute | guitar | trumpet | cello | drum | harp
mood: sad | cheerful | quiet | gentle | loud | solemn
sport: <who> won the <game> by <number> points | the <game> begins at <number> <when> | <who> threw the ball over the
    <landmark> | we played <game> <when> | <number> players were late for <game>
game: football | tennis | chess | hockey | cricket | basketball
talk: <who> told us about <where> <when> | do you know why <who> went to <where> | did <who> really say that the
    <building> is closed | <who> never believed the story about the <animal> | tell <who> that the <vehicle> is late
    again | what did <who> ask you <when>
shop: the <clothes> costs <number> pounds and <number> pence | <who> wore a <colour> <clothes> <when> | could you show
    me the <colour> <clothes> please | <who> sold <number> <size> boxes to the <job> | this <clothes> is too <fit> for
    <who>
clothes: jacket | shirt | hat | scarf | dress | sweater | pair of shoes | belt
fit: wide | narrow | short | long | tight | loose
"""
HANDWRITTEN = """\
a cold breeze moved the curtains all night
all the lights in the street went out at once
anyone who likes puzzles will enjoy this book
ask the librarian for the second volume
at the end of the road there is a yellow house
be careful with the glass on the top shelf
both of them laughed until they could not speak
bring a torch because the tunnel is very dark
by the time we arrived the shop was shut
choose whichever colour you prefer
could you lend me your bicycle until thursday
count the coins before you close the till
do not forget to water the plants while i am away
each of the four chairs needs a new cushion
early trains are usually less crowded
even the smallest stone can stop a wheel
everyone agreed that the plan was far too risky
fill the kettle and wake me when it boils
fold the paper twice and cut along the edge
for a moment nobody knew what to say
from the roof you can see as far as the sea
give me another example and i will understand
grandfather keeps his medals in a wooden chest
half of the money goes to the animal shelter
have you ever slept in a tent during a storm
he carried the sleeping child up three flights of stairs
he closed his eyes and listened to the waves
he could not remember where he had parked
her handwriting is almost impossible to read
his voice was calm but his hands were shaking
how long does it take to learn to juggle
i counted seventeen swans on the lake
i have never tasted anything so sour
i would rather stay here and finish my work
if it snows tomorrow the pass will be closed
in my opinion the first version was better
it is easier to ask for help than to guess
it was so quiet that we heard the snow fall
just follow the sound of the bells
keep the receipt in case the zip breaks
last night i dreamed about an enormous whale
let us meet in front of the cinema at eight
many of these words have more than one meaning
measure the width of the window first
most birds had already flown south
my bag was on the back seat of the taxi
never leave a candle burning in an empty room
nine out of ten visitors come back the next year
no one noticed the mistake for months
nothing grows here except thistles and moss
on clear nights the stars look close enough to touch
once upon a time a fox lived under this hill
one of the strings on my guitar has snapped
only the cook knows what is in the sauce
our dog is afraid of vacuum cleaners
people used to cross this river on foot
perhaps we should have bought a bigger boat
pull the rope gently until the flag reaches the top
put your boots by the stove so that they dry
rain is good news for the farmers in this region
read the question twice before you answer it
remind me to call the dentist tomorrow
she collects postcards from every place she visits
she drew a circle in the sand with her toe
she speaks so softly that i have to lean forward
six of the eggs were cracked
some jokes are only funny the first time
somebody has been sitting in my chair
spread the jam thinly or it will drip
stand still while i pin the sleeve
take the second exit and keep to the right
thank you for feeding the hens while we were abroad
that bridge was built by monks
the actor forgot his lines and began to whistle
the answer is hidden on the last page
the baby fell asleep to the hum of the fridge
the blue whale has a heart as big as a car
the carpet is older than anyone in this family
the chimney has not been swept for years
the choir rehearses in an empty factory
the clock in the hall is always a quarter of an hour fast
the crowd cheered as the balloon rose
the dough has to rest for half an hour
the elevator is out of order again
the ferry could not land because of the waves
the fire crackled and the room grew warm
the judge asked for silence
the juice of two limes is quite enough
the key turned but the door would not open
the kite caught in the branches of a chestnut tree
the lake freezes over from shore to shore
the last piece of the puzzle was under the sofa
the map shows a path that no longer exists
the moon was bright enough to read by
the museum has a room full of old typewriters
the nurse measured his pulse and frowned
the orchestra tuned and the hall fell silent
the owl hooted twice and flew off
the pilot apologised for the bumpy landing
the price of wheat has doubled since march
the pupils planted an oak behind the gym
the queen wore a cloak of purple velvet
the recipe asks for a pinch of nutmeg
the roof leaks whenever the wind blows from the west
the sailor tied a knot that nobody could undo
the smell of coffee drifted up the stairs
the snail crossed the path in about an hour
the soup is too hot to eat straight away
the thief climbed in through the skylight
the toast burned while we were arguing
the vase fell but by luck it did not break
the water in the well is cold and sweet
the witness described a tall man with a limp
their garden is full of bees and butterflies
there are fewer than fifty houses in the whole valley
there is a hole in the left pocket
these gloves are far too thin for january
they argued about whose turn it was to wash up
they built a raft out of barrels and planks
they painted over the name of the ship
this cheese smells worse than it tastes
this is the longest day of the year
those shoes will not survive the hike
three loud knocks woke the whole household
tie the tomatoes to a stick as they grow
tomorrow the judges will announce the winner
turn the volume down a little please
two roads lead to the castle and both are steep
under the floorboards they found a bundle of letters
until last week i had never seen the ocean
wait here while i fetch the tickets
wash the spinach three times to remove the grit
we could hear the geese long before we saw them
we have just enough petrol to reach the next town
we shared an umbrella all the way home
we watched the sparks rise into the dark
what a pity that the film ended so soon
what would you do with a million pounds
when the whistle blows everybody changes sides
where did you hide the birthday presents
which of these two melodies do you like better
while the kettle boiled she wrote a short note
who left the gate open again
why does the moon look larger near the horizon
with a little patience you can tame a jackdaw
without glasses he cannot tell a cow from a bush
wolves were seen near the village for the first time
yesterday the postman delivered a very odd parcel
you can borrow my gloves if yours are wet
you ought to try the plum tart
your taxi will be here in a quarter of an hour
"""


def _parse_rules(grammar: str) -> dict[str, list[str]]:
    rules = re.findall(r"^(\w+):(.*(?:\n .*)*)", grammar, flags=re.MULTILINE)
    return {symbol: [" ".join(choice.split()) for choice in choices.split("|")] for symbol, choices in rules}


_RULES = _parse_rules(GRAMMAR)
_SYMBOL = re.compile(r"<(\w+)>")


def _expand(symbol: str, rng: np.random.Generator, used: set[str]) -> str:
    # a sentence does not say the same word of a kind twice: no "salt and salt"
    choices = [choice for choice in _RULES[symbol] if choice not in used]
    choice = choices[rng.integers(len(choices))]
    used.add(choice)
    return _SYMBOL.sub(lambda match: _expand(match[1], rng, used), choice)


def make_sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct sentences in random order: those written by hand, and as many grown ones as are missing.

    Arguments
    ---------
    count : int
        How many sentences.
    rng : numpy.random.Generator
        The source of chance.

    Returns
    -------
    list of str
        Lower-case sentences of English words and spaces only, no two alike.

    Example
    -------
    >>> sentences = make_sentences(500, np.random.default_rng(0))
    >>> len(set(sentences))
    500
    """
    sentences = dict.fromkeys(HANDWRITTEN.splitlines())
    while len(sentences) < count:
        sentences[_expand("sentence", rng, set())] = None
    ordered = sorted(sentences)
    return [ordered[index] for index in rng.permutation(len(ordered))[:count]]


def digit_string(length: int, rng: np.random.Generator) -> str:
    """Random digits in words.

    Arguments
    ---------
    length : int
        How many digits.
    rng : numpy.random.Generator
        The source of chance.

    Returns
    -------
    str
        For instance ``seven three zero``.

    Example
    -------
    >>> len(digit_string(3, np.random.default_rng(0)).split())
    3
    """
    return " ".join(DIGITS[index] for index in rng.integers(len(DIGITS), size=length))
