"""Questions about the present and orders are told from questions that any hour answers alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.wording import Phrases, asks_for_action, asks_for_the_present

PRESENT = [
    "What's the weather like in Oslo?",
    "Who is the CEO now?",
    "What is the price of gold?",
    "Is my order still on its way?",
    "What's on this week?",
    "Which is the latest version?",
    "what’s today’s special",
    "Currently open positions",
    "CURRENT exchange rate EUR/USD",
    "What time is it in Tokyo?",
    "Where is my parcel?",
    "Has my payment arrived yet?",
    "Is the outage over?",
    "Are tickets sold out?",
    "What's new as of March?",
]
ANY_TIME = [
    "How do I reset my password?",
    "What is a current account?",
    "Why does alternating current change direction?",
    "What is a credit score?",
    "Who wrote Hamlet?",
    "How do I know which form I need?",
    "What is Snowflake?",
    "How does the knowledge base work?",
    "Can I return shoes within 30 days?",
    "Where do you live?",
    "How do I change my last name?",
    "Why did my soufflé collapse?",
    "I forgot my pill. What now?",
]
ORDERS = [
    "Cancel my order",
    "please cancel my subscription",
    "Could you please delete the account of my mother?",
    "send the invoice to Sarah",
    "Book me a table for two",
    "Write a poem about rain",
    "generate ten names for a cat",
    "Hi! Can you translate this into French: hello",
    "My parcel is late. Refund me.",
    "I want to cancel my order",
    "I'd like to close my account",
    "I want you to act as a lawyer",
    "Would you mind sending me the form?",
    "First check the stock and then order two",
    "Summarize the article",
    "tell me a joke",
    "Turn on the lights",
    "Help me write an essay",
    "ok now unsubscribe me",
    "please cancel order",
    "Pay invoice 4711",
    "Create an account for Ann",
    "It is broken, send me another",
]
QUESTIONS = [
    "How do I cancel my order?",
    "Can I cancel my order?",
    "Where do I delete the account?",
    "I want to close my account, how does that work?",
    "I need to send a parcel abroad. What does it cost?",
    "What does git commit do?",
    "Is it possible to book online?",
    "My order was cancelled",
    "Why did you close the shop?",
    "Who wrote Hamlet?",
    "Explain photosynthesis",
    "What is a call option?",
    "Run is a verb?",
    "Do I need to book a table?",
    "Tell me about the return policy",
    "List the opening hours",
    "reset voicemail pin",
    "cancel order",
    "install pip ubuntu",
    "connect to office wi-fi",
    "Can I, as a guest, order without an account?",
    "",
    "?!",
]


@pytest.mark.parametrize("text", PRESENT)
def test_about_the_present(text: str) -> None:
    assert asks_for_the_present(text)
    assert asks_for_the_present(text.upper())


@pytest.mark.parametrize("text", [*ANY_TIME, "", " ", "…"])
def test_the_same_at_any_time(text: str) -> None:
    assert not asks_for_the_present(text)


@pytest.mark.parametrize("text", ORDERS)
def test_orders(text: str) -> None:
    assert asks_for_action(text)
    assert asks_for_action(text.upper())


@pytest.mark.parametrize("text", QUESTIONS)
def test_questions_are_no_orders(text: str) -> None:
    assert not asks_for_action(text)


def test_a_model_with_tools_carries_out_the_barest_order() -> None:
    assert asks_for_action("cancel order", able=True)
    assert not asks_for_action("How do I cancel my order?", able=True)


def test_phrases_are_whole_words_and_the_longest_is_found() -> None:
    phrases = Phrases(["now", "as of", "as of now"])
    assert phrases.length_at(["as", "of", "now"], 0) == 3
    assert phrases.length_at(["as", "of", "noon"], 0) == 2
    assert phrases.length_at(["as", "off"], 0) == 0
    assert phrases.length_at(["knowing"], 0) == 0


@given(st.text(max_size=100))
def test_any_text_is_judged(text: str) -> None:
    assert asks_for_the_present(f"{text}. What is it now?")
    assert asks_for_action(f"{text}. Cancel my order")
