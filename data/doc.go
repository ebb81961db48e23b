// Package data reads corpora and token files, and cuts tokens into the
// batches that a model is trained and evaluated on.
//
// A corpus is a text file or a tree of them (ReadText), which a tokenizer
// turns into tokens, or a token file (ReadTokens). Split holds out its end for
// validation. Batches draws the training batches: batch k is a pure function
// of the seed and k, so a run that stopped after k batches goes on with
// nothing but k. Windows lays out the held-out tokens so that each is
// predicted exactly once.
//
// Texts that are larger than memory become token files once: Tokenize makes
// shards of them, goes on where it was interrupted, and finds them again the next
// time; NewShardBatches draws from them, reading as it goes.
//
// For fine-tuning, ReadJSONL reads texts, completions and conversations, an
// Encoder makes examples of them, of which only the answers are learned, and
// Padded draws batches with each example in its row.
package data
