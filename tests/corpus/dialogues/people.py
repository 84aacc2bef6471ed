"""The last question leans on who asks, or of whom or what it was spoken."""

from __future__ import annotations

from tests.corpus.dialogues.scenario import scenario

PEOPLE = (
    scenario(
        "does_it_apply_to_me",
        """user: I am {0}.
        assistant: Thank you for telling me.
        user: Under 26 one pays half, from 65 nothing, and members get 20 percent off.
        assistant: That is right.""",
        "Which of these applies to me? / What do I get?",
        "19 and no member / 44 and no member / 70 and no member / 44 and a member",
    ),
    scenario(
        "where_i_live",
        """user: I live in {0}.
        assistant: Noted.""",
        "What is the speed limit on motorways here? / Which emergency number do I call?",
        "France / Japan / the United States / Australia",
    ),
    scenario(
        "who_is_ill",
        """user: {0} has had a fever of 39 degrees since yesterday.
        assistant: I am sorry to hear that.""",
        "How much paracetamol is right? / When do we need a doctor?",
        "My baby of two months / My son of six / My husband / My grandmother of 91",
    ),
    scenario(
        "allergy",
        """user: I am allergic to {0}.
        assistant: I'll keep that in mind.""",
        "Which foods should I avoid? / What must I look out for at breakfast?",
        "almonds / bee stings only / eggs / wheat",
    ),
    scenario(
        "device_named_earlier",
        """user: I have a {0}.
        assistant: Nice. What can I do for you?""",
        "How do I take a screenshot? / How do I restart it when it hangs?",
        "Pixel 7 / MacBook Air / PlayStation 5 / Kindle",
    ),
    scenario(
        "language_named_earlier",
        """user: I'm learning {0}.
        assistant: Great choice.""",
        "How do I read a file? / What does a loop look like?",
        "Python / Rust / Go / Haskell",
    ),
    scenario(
        "role_in_a_lease",
        """user: I am the {0} of a flat.
        assistant: How can I help?""",
        "Who pays for the broken boiler, me or the other side? / How do I end the lease?",
        "tenant / landlord / subtenant / buyer",
    ),
    scenario(
        "pronoun",
        """user: Tell me about {0}.
        assistant: A remarkable person.""",
        "When was she born? / What did she discover?",
        "Marie Curie / Rosalind Franklin / Lise Meitner / Ada Lovelace",
    ),
    scenario(
        "pronoun_for_a_place",
        """user: I'm going to {0} in May.
        assistant: Lovely.""",
        "What is the weather like there? / What should I see there?",
        "Reykjavik / Marrakesh / Singapore / Edinburgh",
    ),
    scenario(
        "job_of_the_asker",
        """user: I work as {0}.
        assistant: Good to know.""",
        "Do I get extra pay on Sundays? / How many hours may I work at most?",
        "a nurse / a lorry driver / a partner in a law firm / an apprentice of 16",
    ),
    scenario(
        "two_people",
        """user: {0} earns more than {1}.
        assistant: I see.""",
        "Who earns less? / Who should pay the larger share?",
        "Tom; Ana / Ana; Tom / Kim; Lea / Lea; Kim",
    ),
    scenario(
        "corrected_by_the_user",
        """user: My order number is {0}.
        assistant: Thank you.
        user: Sorry, I mean {1}.
        assistant: No problem.""",
        "Where is it now? / When will it arrive?",
        "55120; 55121 / 55121; 55120 / 55120; 55102 / 55210; 55012",
    ),
    scenario(
        "deadline_passed",
        """user: {0} must be signed by Friday.
        assistant: Understood.""",
        "What happens if I am late? / How many days do I have left?",
        "The lease / The job offer / The divorce paper / The tax return",
        """assistant: {0} was due last Friday.
        user: Really?
        assistant: Yes, I am afraid so.""",
    ),
)
