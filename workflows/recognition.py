"""The stage that recognises pages under a budget."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from hiperrag.collection import Collection
from hiperrag.parsing import router
from hiperrag.parsing.batch import Chosen, finish_survey, in_order
from hiperrag.parsing.purse import Purse
from hiperrag.parsing.sandbox import Sandbox
from hiperrag.parsing.sources import Input
from hiperrag.records import Document, Quarantined, read_documents, read_quarantined, write_records
from hiperrag.workflows.choice import Share, Spent
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.stages import Outcome, PartNames
from hiperrag.workflows.staging import staged_inputs


def recognise_part(
    root: str, names: PartNames, inputs: Sequence[Input], settings: IndexSettings, share: Share
) -> Outcome:
    """A survey -> documents and quarantine, the part's share of the budget recognised."""
    started, cpu = time.perf_counter(), time.process_time()
    collection = Collection(root)
    survey = read_documents(names.output(collection, "parse"))
    surveyed = {document.source for document in survey}
    earlier = read_quarantined([collection.quarantine_path(names.documents)])
    quarantined = [entry for entry in earlier if entry.source not in surveyed]  # a killed attempt may have added some
    chosen = _chosen(survey, share)
    outcomes: dict[int, Document | Quarantined] = dict(enumerate(survey))
    with staged_inputs(inputs) as local, Sandbox(settings.parse.limits()) as sandbox:
        by_source = {item.source: item for item in local}
        for number in in_order(len(survey), chosen):
            if item := by_source.get(survey[number].source):  # rows of ready text have none, and no pages either
                options = settings.parse.options()
                outcomes[number] = finish_survey(sandbox, item, survey[number], number, chosen, options)
    documents = [one for _, one in sorted(outcomes.items()) if isinstance(one, Document)]
    quarantined += [one for _, one in sorted(outcomes.items()) if isinstance(one, Quarantined)]
    if isinstance(chosen, Purse):
        seconds = sandbox.cpu_seconds + time.process_time() - cpu
        Spent(seconds, chosen.recognised).add(collection, names.documents)
    output = collection.documents_path(names.documents)
    if not output.exists():  # else another worker that was given the same part was first
        write_records(collection.quarantine_path(names.documents), Quarantined, quarantined)
        write_records(output, Document, documents)
    names.output(collection, "parse").unlink(missing_ok=True)
    n_pages = round(chosen.recognised) if isinstance(chosen, Purse) else sum(map(len, chosen.values()))
    return Outcome(len(documents), len(quarantined), time.perf_counter() - started, n_pages=n_pages)


def _chosen(survey: Sequence[Document], share: Share) -> Chosen:
    if share.seconds is None:
        return share.pages
    wanted = itertools.chain.from_iterable(router.needs("", n, one.pages) for n, one in enumerate(survey))
    return Purse(share.seconds, list(wanted), share.seconds_per_page)
