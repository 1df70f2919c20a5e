"""What the benchmark of guessing ahead asks: work on a passage, and free text. Original texts."""

from __future__ import annotations

_PASSAGES = {
    "mill": (
        "The old mill at Harrow Bridge was built in 1782 by Thomas Keld, a carpenter from the next valley. It"
        " had two wheels, each four metres high, and ground barley and oats for eleven villages. In the "
        "spring of 1861 a flood carried away the smaller wheel, and the owner, Margaret Keld, decided not to "
        "replace it. She sold the mill to the county in 1874 for nine hundred pounds. Since 1990 it has been "
        "a museum, open from April to October, and on the first Sunday of each month the remaining wheel is "
        "set in motion."
    ),
    "mail": (
        "Dear Mr. Novak, thank you for your order of 14 March. We have received your payment of 248.50 euros."
        " Your two bookshelves, model Linden 80 in oak, will be delivered on Tuesday, 2 April, between 9 and "
        "12 o'clock to Gartenstrasse 17 in Graz. The driver will call you on 0664 555 0192 half an hour "
        "before he arrives. If you cannot be at home, please tell us by 29 March. Kind regards, Petra Lang, "
        "Linden Furniture"
    ),
    "bees": (
        "A bumblebee colony lives for a single season. In early spring the queen, who has slept through the "
        "winter in the ground, looks for an old mouse nest or a hollow under a stone. She builds small cups "
        "of wax, fills one of them with nectar for herself, and lays her first eggs in the others. After four"
        " weeks the first workers hatch and take over the search for food, while the queen stays in the nest "
        "and lays eggs. In August the colony raises young queens and males. When the frost comes, all die but"
        " the young queens, who look for a place to sleep."
    ),
    "errors": (
        "Yesterday me and my brother has gone to the libary to return three book. The librarian say that one "
        "of them were damaged, but we has not damage it. She look in her computer and find out that the book "
        "was already damage when we has borrow it. Then she apologize and give us a new libary card for free."
        " On the way home it begin to rain, so we runned to the bus stop and waited there for twenty minute."
    ),
    "board": (
        "Minutes of the board meeting, 6 May. Present: Ada Brandt (chair), Luis Ortega, Mei Tanaka, Samuel "
        "Okoro. The board approved the minutes of 8 April. Luis Ortega reported that the roof repair cost "
        "12,400 euros, which is 600 euros less than planned. Mei Tanaka presented the new opening hours: "
        "Monday to Friday from 8 to 18 o'clock, Saturday from 9 to 14 o'clock. The board accepted them with "
        "three votes to one. Samuel Okoro will order new chairs for the reading room by the end of June. The "
        "next meeting is on 3 June at 19 o'clock."
    ),
}
_COPYING = (
    ("mill", "Copy the following text, but change the name Margaret to Susan. Write nothing else.\n\n{}"),
    ("bees", "Rewrite the following text in the past tense. Change nothing else.\n\n{}"),
    ("errors", "Correct the spelling and grammar of the following text. Write only the corrected text.\n\n{}"),
    ("board", "Rewrite the following text. Replace euros by dollars and keep everything else.\n\n{}"),
    (
        "mail",
        "{}\n\nFill in this form with the information from the letter above.\nName:\nDate of order:\nAmount paid:\n"
        "Products:\nDelivery date:\nDelivery time:\nAddress:\nPhone number:\nContact:",
    ),
    (
        "board",
        "{}\n\nFill in this form from the minutes above.\nDate of the meeting:\nChair:\n"
        "Present:\nCost of the roof repair:\nOpening hours on weekdays:\nOpening hours on Saturday:\nNext meeting:",
    ),
    ("mill", "{}\n\nQuote the sentences of this text that say what happened in the years 1782, 1861 and 1874."),
    ("bees", "{}\n\nQuote word for word the sentences about the queen."),
    ("mail", "Repeat this letter, but address it to Mrs. Horvat instead of Mr. Novak.\n\n{}"),
    ("errors", "Fix the mistakes in this text and leave everything else as it is:\n\n{}"),
)
_FREE = (
    "Write a short story about a lighthouse keeper.",
    "Explain why the sky is blue.",
    "What are good habits for a healthy life?",
    "Write a poem about the sea.",
    "Tell me about the history of bread.",
    "How do I learn to play the guitar?",
    "Describe a walk through a forest in autumn.",
    "Why do people keep dogs?",
)

PROMPTS: tuple[tuple[str, str], ...] = (
    *(("copying", prompt.format(_PASSAGES[name])) for name, prompt in _COPYING),
    *(("free text", prompt) for prompt in _FREE),
)
"""(kind of work, prompt)"""
