"""Conversations about the sample papers: a question of examples/questions.jsonl, a follow-up, and what answers it.

Each follow-up leans on what was said before: by a pronoun, by leaving words out, or by naming a thing that occurs in
several papers or passages. `BY_ITSELF` are questions on another matter, which need nothing of the conversation.
"""

from __future__ import annotations

from typing import NamedTuple


class FollowUp(NamedTuple):
    """After question `first` (its _id), `question` is answered by a passage of `document` with the words `gold`."""

    first: str
    question: str
    document: str
    gold: str


FOLLOW_UPS = (
    FollowUp(
        "q01", "And which organisms were responsible for it?", "peat-nitrification.pdf", "million copies per gram"
    ),
    FollowUp("q01", "How many plots were there?", "peat-nitrification.pdf", "Twelve plots"),
    FollowUp("q02", "How deep is the peat there?", "peat-nitrification.pdf", "2.3 m deep"),
    FollowUp("q03", "How was it made?", "borate-electrolyte.pdf", "malic acid"),
    FollowUp("q03", "What about 4%?", "borate-electrolyte.pdf", "4% was worse"),
    FollowUp("q04", "How thick is the film that it forms?", "borate-electrolyte.pdf", "dense film of about 7 nm"),
    FollowUp("q05", "How far away is it?", "transit-photometry.pdf", "parsecs"),
    FollowUp("q05", "Which telescope was used?", "transit-photometry.pdf", "40 cm"),
    FollowUp("q06", "How were the times checked there?", "transit-photometry.pdf", "satellite"),
    FollowUp("q07", "And in air?", "alloy-fatigue.pdf", "186"),
    FollowUp("q08", "How deep were they?", "alloy-fatigue.pdf", "138 µm"),
    FollowUp(
        "q09", "Are they on the surface or buried?", "protein-thermostability.pdf", "All three prolines are buried"
    ),
    FollowUp("q10", "Where does it come from?", "protein-thermostability.pdf", "metagenome"),
    FollowUp("q11", "When did they come back?", "seabird-migration.pdf", "16 April"),
    FollowUp("q11", "And over the Brandt Rise?", "seabird-migration.pdf", "Nine went to the Brandt Rise"),
    FollowUp("q12", "Why?", "seabird-migration.pdf", "raft on"),
    FollowUp("q13", "What about marl calcined at 860 °C?", "cement-slag.pdf", "stiffened within six minutes"),
    FollowUp("q14", "What is that due to?", "cement-slag.pdf", "illite gave off potassium"),
    FollowUp("q16", "How much of it was recovered?", "groundwater-tracer.pdf", "71%"),
    FollowUp("q16", "What was the second tracer?", "groundwater-tracer.pdf", "potassium bromide"),
    FollowUp("q17", "What about children with asthma?", "school-cohort.pdf", "children with asthma the rate ratio"),
    FollowUp("q18", "Did they help?", "school-cohort.pdf", "absence fell from 6.0 to 4.9"),
    FollowUp("q20", "How much space does that take on disk?", "compiler-layout.pdf", "740 MB"),
    FollowUp("q21", "Is it slower higher up?", "lichen-growth.pdf", "600 m"),
    FollowUp("q23", "How long is she?", "ocean-acoustics.pdf", "52 m long"),
    FollowUp("q23", "What speed does the yard propose?", "ocean-acoustics.pdf", "9 knots"),
)

BY_ITSELF = (
    FollowUp(
        "q01", "How large is the radius of the companion of KSO-417?", "transit-photometry.pdf", "5.2 Earth radii"
    ),
    FollowUp("q05", "What did trickle vents cost in Castermere?", "school-cohort.pdf", "212 crowns"),
    FollowUp("q11", "Which additive raises the capacity of lithium cells?", "borate-electrolyte.pdf", "LiDFMB"),
    FollowUp("q17", "At which temperature was the marl of the Holm quarry calcined?", "cement-slag.pdf", "780 °C"),
    FollowUp("q20", "How much uranine was injected at Ormdal?", "groundwater-tracer.pdf", "2.40 kg"),
    FollowUp("q23", "What share of petrels bred in the following summer?", "seabird-migration.pdf", "89%"),
)
