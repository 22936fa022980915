"""Makes cut.json beside this file: what Hugging Face's tokenizers makes of a text that is cut, as sentence-transformers has it cut.
Run: python make_cut.py"""

import json
import pathlib

from tokenizers import Tokenizer, processors

HERE = pathlib.Path(__file__).parent
TEXT = "the red planet is far from the green one, and it has two small moons that nobody saw before"
tokenizer = Tokenizer.from_file(str(HERE.parent / "tokenizers" / "spm" / "tokenizer.json"))
tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
whole = tokenizer.encode(TEXT).ids
tokenizer.enable_truncation(12)
(HERE / "cut.json").write_text(json.dumps({"text": TEXT, "whole": len(whole), "cut": tokenizer.encode(TEXT).ids}) + "\n")
