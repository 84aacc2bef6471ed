"""The last question leans on the system prompt or on a tool's result."""

from __future__ import annotations

from tests.corpus.dialogues.scenario import scenario

SYSTEMS = (
    scenario(
        "persona_of_a_shop",
        "system: You answer questions for {0}. Use its rules only.",
        "How long can I return something? / What are your opening hours?",
        "Bright Shoes / Green Grocer / Lakeside Books / Northern Tools",
    ),
    scenario(
        "rule_in_the_system_prompt",
        "system: Our return period is {0}. Answer with our rules.",
        "Until when can I return what I bought on 1 March? / How long do I have to send it back?",
        "14 days / 30 days / 60 days / one year",
    ),
    scenario(
        "language_of_the_answer",
        "system: Always answer in {0}.",
        "What is the capital of Norway? / How do I boil an egg?",
        "English / German / Japanese / Welsh",
    ),
    scenario(
        "reading_age",
        "system: Your readers are {0}.",
        "What is a virus? / Why is the sky blue?",
        "children of five / doctors / physics students / people who learn English",
    ),
    scenario(
        "format_of_the_answer",
        "system: Reply {0}.",
        "List the planets. / Which countries border Austria?",
        "as a JSON array / as a table in Markdown / with one line of plain text / as a limerick",
    ),
    scenario(
        "date_in_the_system_prompt",
        "system: Today is {0}.",
        "What day is it tomorrow? / How many days are left until New Year?",
        "Monday, 3 March 2025 / Tuesday, 30 December 2025 / Friday, 1 August 2025 / Sunday, 28 June 2026",
    ),
    scenario(
        "user_in_the_system_prompt",
        "system: The user is called {0}, customer level {1}.",
        "What level am I? / Do I have free delivery?",
        "Jo; gold / Jo; silver / Mira; bronze / Paul; platinum",
    ),
    scenario(
        "forbidden_topic",
        "system: Do not talk about {0}. Say that you cannot.",
        "How much do your cards, loans and pensions cost? / Compare all your products.",
        "cards / loans / pensions / prices",
    ),
    scenario(
        "no_system_prompt",
        "user: Hello, I have a question about {0}.",
        "Can you help me? / What do you know about it?",
        "my pension / a rash / cancelled trains / C pointers",
        """system: You help with billing alone. Turn everything else away.
        user: Hello, I have a question about {0}.""",
    ),
    scenario(
        "developer_message",
        "developer: Prices are shown {0}.",
        "How much is the bike? / What does the repair come to?",
        "with tax / without tax / in dollars / per month over two years",
    ),
    scenario(
        "negated_rule",
        "system: Staff of {0} may take dogs to the office.",
        "May I bring my dog? / What about my dog on Monday?",
        "the Ghent office / the Turin office / the Bergen office / the Cork office",
        "system: Staff of {0} may not take dogs to the office.",
    ),
    scenario(
        "who_is_meant",
        "system: You are {0}.",
        "Who are you? / Am I the one who gives advice here?",
        "a tax adviser / a chess coach / a midwife / a driving instructor",
        "system: The user is {0}. You are a secretary.",
    ),
)


TOOLS = (
    scenario(
        "weather_result",
        """user: Look up the weather in {0}.
        call: weather city={0}
        tool: {1}""",
        "How warm is it? / What shall I wear?",
        "Bergen; 9 degrees, heavy rain / Bergen; 21 degrees, sunny / Cairo; 38 degrees, sunny"
        " / Oulu; -18 degrees, snow",
    ),
    scenario(
        "order_status",
        """user: Check my order.
        call: order_status id=7781
        tool: {0}""",
        "Where is it? / When will it be here?",
        "not yet paid / packed, leaves today / delivered on Monday / lost by the carrier",
    ),
    scenario(
        "account_balance",
        """user: Show my balance.
        call: balance account=main
        tool: {0} euros""",
        "How much is left after the rent of 900? / By how much did it change from 1,000?",
        "450 / 905 / 2300 / -80",
    ),
    scenario(
        "argument_of_a_call",
        """user: Read the file.
        call: read path={0}
        tool: 3 lines read""",
        "Which file was that? / Delete it, please.",
        "notes.txt / notes.bak / plans/notes.txt / Notes.TXT",
    ),
    scenario(
        "tool_failed",
        """user: Book a table at Luna for {0}.
        call: book restaurant=Luna time={0}
        tool: booked""",
        "Did it work? / Do I have a table?",
        "18:00 / 19:00 / 20:30 / 21:15",
        """user: Book a table at Luna for {0}.
        call: book restaurant=Luna time={0}
        tool: no table is free""",
    ),
    scenario(
        "search_results",
        """user: Find me a flight.
        call: flights query=cheap
        tool: A costs {0}, B costs {1}""",
        "What does A cost? / Take B. What does it cost?",
        "90 euros; 120 euros / 120 euros; 90 euros / 75 euros; 80 euros / 310 euros; 95 euros",
    ),
    scenario(
        "tests_run",
        """user: Run the tests.
        call: run command=pytest
        tool: {0}""",
        "What do I have to fix? / How did it go?",
        "12 passed / 11 passed, 1 failed: test_login / 11 passed, 1 failed: test_logout / no tests ran",
    ),
)
