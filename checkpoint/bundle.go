package checkpoint

import (
	"slices"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/gguf"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// Format is what a model on disk was read from.
type Format string

// The formats that Open reads.
const (
	FormatDir         Format = "Hugging Face directory"
	FormatSafetensors Format = "safetensors file" // with a config.json beside it
	FormatRun         Format = "training run"     // of SaveState
	FormatGGUF        Format = "GGUF file"
	FormatLlama2c     Format = "llama2.c file"
)

// Bundle is a model and what it takes to use it: all that a path holds. What
// SaveDir and SaveGGUF write of it, Open reads back.
type Bundle struct {
	Model *chainrule.Model

	// Tokenizer is nil where the path has none. It has at most as many tokens
	// as the model, which may have more rows than that.
	Tokenizer tokenizer.Model
	// ChatTemplate is the source, in Jinja, of what makes a conversation a
	// text; "" where there is none.
	ChatTemplate string
	// Special are the tokens that templates know by name.
	Special SpecialTokens
	// Generation is how the model is meant to be sampled.
	Generation Generation

	Format Format
	Path   string // of the directory or file that was read: of a run, the checkpoint
	// Notes say what a user may want to know of what was read, such as that a
	// context was cut to what is computed exactly.
	Notes []string

	source carried
}

// SpecialTokens are the tokens that have a name in a chat template: bos_token,
// eos_token and so on.
type SpecialTokens struct {
	BOS, EOS, Pad, Unknown SpecialToken
}

// SpecialToken is a token by its spelling and its id. The zero value is none.
type SpecialToken struct {
	Text string // as the vocabulary spells it; "": there is no such token
	ID   int32
}

// Generation is the content of a generation_config.json, or of what stands for
// it in another format.
type Generation struct {
	BOS []int32 // of at most one token
	EOS []int32 // any of these ends an answer
	Pad []int32 // of at most one token

	// What follows is 0 where nothing is said. A TopK of -1 is said to be all.
	DoSample          bool
	Temperature       float64
	TopK              int
	TopP              float64
	MinP              float64
	RepetitionPenalty float64
}

// StopTokens are the ids any of which ends what the model writes: those of
// Generation, and the tokenizer's token for the end, which in a model that
// answers is that of an answer.
func (b *Bundle) StopTokens() []int32 {
	stop := slices.Clone(b.Generation.EOS)
	if eos := b.Special.EOS; eos.Text != "" && !slices.Contains(stop, eos.ID) {
		stop = append(stop, eos.ID)
	}
	return stop
}

// carried is what a Bundle has of the files that it was read from, to write
// them again as they were.
type carried struct {
	files   map[string][]byte
	general []gguf.Pair // of a GGUF file: what it says about the model

	// What was made of them: where the Bundle has something else now, that is
	// written.
	tokenizer    tokenizer.Model
	chatTemplate string
	special      SpecialTokens
	generation   Generation
}

// keep keeps a file.
func (c *carried) keep(name string, content []byte) {
	if c.files == nil {
		c.files = map[string][]byte{}
	}
	c.files[name] = content
}

// remember notes what was made of the files.
func (c *carried) remember(b *Bundle) {
	c.tokenizer, c.chatTemplate, c.special, c.generation = b.Tokenizer, b.ChatTemplate, b.Special, b.Generation
}

// OpenOptions are the options of Open; the zero value is right for most.
type OpenOptions struct {
	// Progress is called now and then while weights are read, with the bytes
	// that were and those that will be, and once when done is total.
	Progress func(done, total int64)
	// NoTokenizer leaves Tokenizer, ChatTemplate and Special empty, whatever
	// is there: for who needs only the model.
	NoTokenizer bool
	// CheckFinite has a note made of every tensor that has a NaN or an Inf,
	// which takes a pass over the weights.
	CheckFinite bool
}

// SaveOptions are the options of SaveDir and SaveGGUF; the zero value is right
// for most.
type SaveOptions struct {
	// DType is what weights are written as: F32, the default, or BF16 or F16,
	// rounded to nearest even; in a GGUF file also Q8_0.
	DType string
	// ShardSize is how many bytes of weights a file of SaveDir has at most, unless one
	// tensor has more; 0: 5·10⁹, as transformers has it; negative: no limit.
	ShardSize int64
	// Progress is called as that of OpenOptions.
	Progress func(done, total int64)
}
