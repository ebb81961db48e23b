// Package checkpoint reads and writes models and training runs.
//
// [Open] reads whatever a path is, with the tokenizer and the chat template
// that are there. A model is a Hugging Face model directory of config.json and
// model.safetensors, whole or in shards ([LoadDir], [SaveDir]), or a llama2.c
// file ([LoadLlama2c], [SaveLlama2c]). A training run ([SaveState], [LoadState]) is such a directory with the
// optimizer's moments and the run's position beside the model, so every
// checkpoint of a run loads in Python as it is.
//
// Everything written is first written aside, synced to the disk and renamed;
// everything read is checked before memory is allocated for it. Errors name
// the file and what in it is wrong, and wrap one of the Err values where a
// caller may want to tell them apart.
package checkpoint

import (
	"errors"

	"github.com/chainrule-go/chainrule/checkpoint/internal/rawfile"
)

var (
	// ErrNotModel is wrapped by errors for paths that cannot be a model: a
	// device, a directory where a file must be, a web page, a pickle.
	ErrNotModel = rawfile.ErrNotModel
	// ErrChanged is wrapped when a file was written or replaced while it was read.
	ErrChanged = rawfile.ErrChanged
	// ErrConfig is wrapped by errors in a config.json or trainer.json: one that
	// cannot be parsed, contradicts itself, or describes another architecture.
	ErrConfig = errors.New("unusable configuration")
	// ErrTensors is wrapped when the tensors of a file are not those that the
	// configuration asks for.
	ErrTensors = errors.New("tensors do not match the configuration")
	// ErrIndex is wrapped by errors in a model.safetensors.index.json: one that
	// cannot be parsed, or does not say what the shards have.
	ErrIndex = errors.New("bad index of shards")
	// ErrTruncated is wrapped when a file of a training state is too short.
	ErrTruncated = errors.New("truncated")
	// ErrChecksum is wrapped when a file of a training state is not what was written.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrUnsupported is wrapped when a format cannot hold a model.
	ErrUnsupported = errors.New("the format cannot hold this model")
	// ErrNewer is wrapped when a run would save beside a whole state of a later step.
	ErrNewer = errors.New("a newer state is already there")
)
