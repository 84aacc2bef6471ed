"""The last question leans on an earlier answer or turn."""

from __future__ import annotations

from tests.corpus.dialogues.scenario import scenario

EARLIER_ANSWERS = (
    scenario(
        "second_of_a_list",
        """user: Name three {0}.
        assistant: 1. {1} 2. {2} 3. {3}""",
        "What about the second one? / Tell me more about the second one.",
        "rivers in Europe; Rhine; Danube; Volga / sorting algorithms; quicksort; merge sort; heapsort"
        " / herbs for fish; dill; fennel; parsley / e-mail clients; Outlook; Thunderbird; Mail",
    ),
    scenario(
        "list_in_another_order",
        """user: Which plans do you have?
        assistant: We have {0}, {1} and {2}.""",
        "How much is the first? / Is the last one right for a family?",
        "Basic; Plus; Max / Plus; Max; Basic / Max; Basic; Plus / Solo; Duo; Family",
    ),
    scenario(
        "price_in_another_currency",
        """user: What does the {0} cost?
        assistant: It costs {1} dollars.""",
        "And in euros? / How much is that in pounds?",
        "desk; 240 / lamp; 35 / yearly ticket; 365 / notebook; 1,199",
    ),
    scenario(
        "same_thing_another_price",
        """user: What does the hotel room cost per night?
        assistant: {0} euros.""",
        "And for three nights? / What is it with a discount of ten percent?",
        "80 / 95 / 120 / 210",
    ),
    scenario(
        "why_an_answer",
        """user: Is {0} safe for me?
        assistant: {1}""",
        "Why? / Why is that?",
        "sushi in pregnancy; No, better not. / ibuprofen with a stomach ulcer; No. / a day at altitude; Yes."
        " / yoga after a hip operation; Yes, with care.",
    ),
    scenario(
        "opposite_earlier_answer",
        """user: Does my plan cover {0}?
        assistant: Yes, it does.""",
        "What do I have to do then? / What now?",
        "the new windscreen / a broken tooth / a stolen bike / a lost suitcase",
        """user: Does my plan cover {0}?
        assistant: No, it does not.""",
    ),
    scenario(
        "translate_that",
        """user: How do I say "{0}" politely in a letter?
        assistant: {1}""",
        "Now in French. / Translate that into Italian.",
        "pay up; Kindly settle the invoice. / go away; I would prefer to be alone."
        " / hurry; Your early reply would help. / no; I am afraid I must decline.",
    ),
    scenario(
        "shorten_that",
        """user: Explain {0}.
        assistant: {1}""",
        "Shorter, please. / In one sentence?",
        "photosynthesis; Plants turn light, water and carbon dioxide into sugar and oxygen."
        " / inflation; Prices rise over time, so money buys less."
        " / recursion; A function calls itself on a smaller case until it reaches the base case."
        " / osmosis; Water moves through a membrane to the side with more salt.",
    ),
    scenario(
        "calculation_goes_on",
        """user: What is {0}?
        assistant: {1}""",
        "Times two? / And half of it?",
        "17 + 4; 21 / 17 - 4; 13 / 9 x 9; 81 / 144 divided by 12; 12",
    ),
    scenario(
        "the_next_step",
        """user: How do I {0}?
        assistant: First, {1}.""",
        "Done. What's next? / OK, and then?",
        "reset the router; hold the button for ten seconds / bake a sponge; beat the eggs with the sugar"
        " / contest a fine; ask for the file / install Git; download the installer",
    ),
    scenario(
        "a_later_step",
        """user: Walk me through the {0} set-up.
        assistant: Step 1: open the settings.""",
        "Done. Next step? / Done, go on.",
        "printer / doorbell / VPN / smart lock",
        """user: Walk me through the {0} set-up.
        assistant: Step 1: open the settings.
        user: Done.
        assistant: Step 2: select your network.""",
    ),
    scenario(
        "which_is_better",
        """user: I hesitate between {0} and {1}.
        assistant: Both are good.""",
        "Which one is cheaper? / Which would you take?",
        "a heat pump; a gas boiler / Vue; React / Lisbon; Porto / a lease; a loan",
    ),
)


TURNS = (
    scenario(
        "more_turns",
        """user: Tell me a fact about {0}.
        assistant: They sleep a lot.""",
        "How many facts have you told me? / Which was the last fact you told me?",
        "cats / sloths / bats / koalas",
        """user: Tell me a fact about {0}.
        assistant: They sleep a lot.
        user: Another one.
        assistant: They see well in the dark.""",
    ),
    scenario(
        "topic_changed_in_the_middle",
        """user: How do I renew my passport?
        assistant: At the town hall.
        user: And {0}?
        assistant: At another office.""",
        "What does that cost? / How long does it take?",
        "my driving licence / my dog's licence / a fishing permit / my residence permit",
    ),
    scenario(
        "quote_in_the_history",
        """user: Here is a mail I got: "{0}"
        assistant: I have read it.""",
        "What should I answer? / What does the sender want from me?",
        "Your parcel waits, pay 2 euros here. / Shall we meet at noon? / You are invited to an interview."
        " / We raise your rent by 80 euros from May.",
    ),
    scenario(
        "code_in_the_history",
        """user: My code is: {0}
        assistant: I see it.""",
        "What does it print? / Which type has the result?",
        "print(1 + 1) / print('1' + '1') / print(1 + '1') / print([1] * 2)",
    ),
    scenario(
        "negated_wish",
        """user: I want {0} on my pizza.
        assistant: All right.""",
        "What will you put on it? / Please repeat my order.",
        "olives / anchovies / pineapple / chillies",
        """user: I don't want {0} on my pizza.
        assistant: All right.""",
    ),
    scenario(
        "direction_of_a_trip",
        """user: I'm travelling from {0} to {1}.
        assistant: Have a good trip.""",
        "Which time zone will I be in when I arrive? / What currency do I need there?",
        "London; New York / New York; London / Tokyo; Sydney / Seoul; Zurich",
    ),
    scenario(
        "unit_of_the_answers",
        """user: Please use {0} from now on.
        assistant: I will.""",
        "How far is the moon? / How heavy is a litre of milk?",
        "metric units / imperial units / light seconds and grains / nautical miles and stones",
    ),
    scenario(
        "answer_of_the_user",
        """assistant: {0}
        user: Yes.
        assistant: Thank you.""",
        "What did I just agree to? / Can I take that back?",
        "Shall I delete your account? / Shall I send you the newsletter? / Shall I book the flight?"
        " / Do you accept the new terms?",
    ),
    scenario(
        "yes_or_no",
        """assistant: Do you have {0}?
        user: Yes.
        assistant: Understood.""",
        "So which form do I fill in? / What do I do next?",
        "children / a car / a second job / a pension",
        """assistant: Do you have {0}?
        user: No.
        assistant: Understood.""",
    ),
)
