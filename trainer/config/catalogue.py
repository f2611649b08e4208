"""What a run file says of the catalogue: which items there are, and how lists made of all of them are measured."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name, Place, given_twice

Cutoff = Annotated[int, Field(gt=0, le=100_000)]


class CatalogueSettings(Declaration):
    """`data.catalogue` names the items that a model may recommend, beyond those of the training rows.

    items: a Parquet file or folder with one row an item, its id and all features of the item tower; a path alone in
        place of the section is this one. None: the items of the training rows alone
    raw: that file has rows as they were before preparation, with items and categories as people call them
    item, user: the id features whose values are items and users; None: the first ones of role item and user, or those
        that `data.negatives` names
    """

    items: Place | None = None
    raw: bool = False
    item: Name | None = None
    user: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"items": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _raw_items(self) -> "CatalogueSettings":
        if self.raw and self.items is None:
            raise ValueError("raw is about the file of items, and there is none; name it by items, or leave raw out")
        return self


class CatalogueEvaluation(Declaration):
    """`trainer.evaluation.catalogue` scores each user's rows of a split against lists of the whole catalogue.

    top_k: the K's of recall@K, ndcg@K, hr@K and coverage@K; mrr looks as far as the largest
    exclude: splits whose pairs are not recommended again; None: those before the one that is scored
    new_items: also measures, as `new_...`, lists of the items that training lacks alone
    """

    top_k: tuple[Cutoff, ...] = Field(default=(20,), min_length=1)
    exclude: tuple[Literal["train", "validation"], ...] | None = None
    new_items: bool = False

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """Takes `true` for the defaults."""
        return {} if value is True else value

    @model_validator(mode="after")
    def _each_once(self) -> "CatalogueEvaluation":
        if (twice := given_twice(self.top_k)) is not None:
            raise ValueError(f"top_k names {twice} twice; name each once")
        return self
