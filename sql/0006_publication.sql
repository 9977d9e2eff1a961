-- What the publication looks like after the engine itself has taken the judgments out of it and put them back in one transaction
-- (rows moved or deleted by upkeep): `altered` stands for `fingerprint`, as if nothing had been done. See store/publication.py.
CREATE TABLE judgment_publication (
  single       boolean  NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
  fingerprint  text     NOT NULL,
  altered      text     NOT NULL
);
