"""LangChain's own RetrievalQA over a release, with the packaged language model: the chain is the usual one."""

import pytest
from langchain_classic.chains import RetrievalQA
from langchain_core.language_models.llms import LLM

from pipelines.actions import promote
from pipelines.errors import BadInput
from pipelines.langchain import ReleaseStore
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
ASKED = "Within how many days are refunds paid?"


class Packaged(LLM):
    """The base model of the release, behind LangChain's interface."""

    generator: object

    @property
    def _llm_type(self):
        return "packaged"

    def _call(self, prompt, stop=None, run_manager=None, **_):
        (completion,) = self.generator.reply([[{"role": "user", "content": prompt}]], max_new_tokens=24)
        return completion.text


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = kit.home(tmp_path_factory.mktemp("langchain") / "home")
    kit.candidate(found, kit.TEXTS)
    wiring = Wiring.of(found, kit.CORPUS)
    changed, said = promote.run(wiring.params, wiring.workspace, ports=wiring)
    assert changed, said
    wiring.store.close()
    return found


def test_the_usual_chain_answers_with_documents_of_a_release(settings):
    with ReleaseStore(kit.CORPUS, settings=settings, look_every=None) as vectorstore:
        chain = RetrievalQA.from_chain_type(
            llm=Packaged(generator=Wiring.of(settings, kit.CORPUS).generator()),
            retriever=vectorstore.as_retriever(search_kwargs={"k": 2}),
            return_source_documents=True,
        )
        said = chain.invoke({"query": ASKED})
    sources = said["source_documents"]
    assert said["result"].strip()
    assert sources[0].page_content == kit.TEXTS["refunds"] and len(sources) == 2
    assert sources[0].metadata == {
        "source": "refunds", "document": "refunds", "title": "Refunds", "revision": "r1", "start": 0,
        "end": len(kit.TEXTS["refunds"]), "corpus": kit.CORPUS, "generation": 1,
    }  # fmt: skip


def test_scores_filters_and_what_a_release_refuses(settings):
    with ReleaseStore(kit.CORPUS, 1, settings=settings) as store:
        ranked = store.similarity_search_with_score(ASKED, k=3)
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
        (only,) = store.similarity_search(ASKED, k=3, filter={"document": ["warranty"]})
        assert only.page_content == kit.TEXTS["warranty"]
        with pytest.raises(BadInput, match="k is 51; it must be 1 to 50"):
            store.similarity_search(ASKED, k=51)
        with pytest.raises(NotImplementedError, match="read-only"):
            store.add_texts(["Refunds are paid at once."])
        with pytest.raises(NotImplementedError):
            store.similarity_search_with_relevance_scores(ASKED)
    with pytest.raises(NotImplementedError, match="assay run"):
        ReleaseStore.from_texts(["a"], None)
