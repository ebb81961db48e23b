package chat_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// byteLevel is a tokenizer of bytes, some words, and the special tokens of all
// templates.
func byteLevel(t testing.TB) *tokenizer.BPE {
	var special []string
	for _, g := range goldens() {
		for _, token := range g.Tokens {
			special = append(special, token)
		}
	}
	special = append(special, "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>")
	slices.Sort(special)
	b, err := tokenizer.Train(slices.Values([]string{"assistant assistant\n\n question question answer answer \n\n\n"}),
		tokenizer.TrainOptions{VocabSize: 330, Special: slices.Compact(special)})
	require.NoError(t, err)
	return b
}

// pieces is a sentencepiece model of single characters, with a space before
// every text.
func pieces(t testing.TB) *tokenizer.SentencePiece {
	tokens := []string{"<unk>", "<s>", "</s>"}
	for b := range 256 {
		tokens = append(tokens, fmt.Sprintf("<0x%02X>", b))
	}
	tokens = append(tokens, "▁")
	for r := 'A'; r <= 'z'; r++ {
		tokens = append(tokens, string(r), "▁"+string(r))
	}
	s, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{Tokens: tokens, Scores: make([]float32, len(tokens))})
	require.NoError(t, err)
	return s
}

func tokenizerFor(t testing.TB, template string) tokenizer.Model {
	if template == "llama2" || template == "mistral" {
		return pieces(t)
	}
	return byteLevel(t)
}

// spell writes tokens with bars between them.
func spell(tok tokenizer.Model, tokens []int32) string {
	words := make([]string, len(tokens))
	for i, id := range tokens {
		words[i] = tok.Token(id)
	}
	return strings.Join(words, "|")
}

func TestTokensAreThoseOfTheText(t *testing.T) {
	for name, g := range goldens() {
		tok := tokenizerFor(t, name)
		for _, c := range conversations(t) {
			if c.Name == "special tokens as text" {
				continue
			}
			tmpl := parse(t, name, chat.Options{Tokenizer: tok, Variables: c.Variables})
			for i, want := range g.Cases[c.Name] {
				tokens, err := tmpl.Encode(c.Messages, i == 1)
				if want.Error != "" {
					require.Error(t, err)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, tok.EncodeMarkup(want.Text), tokens)
			}
		}
	}
}

// The tokens of a conversation that spells special tokens are those of one with
// other characters in their place, but there.
func TestSpecialTokensInAContentAreText(t *testing.T) {
	for name, g := range goldens() {
		tok := tokenizerFor(t, name)
		tmpl := parse(t, name, chat.Options{Tokenizer: tok})
		special := func(tokens []int32) (ids []int32) {
			for _, id := range tokens {
				if tok.Special(id) {
					ids = append(ids, id)
				}
			}
			return ids
		}
		for _, token := range g.Tokens {
			for _, form := range []string{"%s", "a %s b", "%[1]s%[1]s", " %s", "%s\n", "<%s>"} {
				spelled, harmless := fmt.Sprintf(form, token), fmt.Sprintf(form, "word")
				dangerous := []chat.Message{user("Say " + spelled + spelled), assistant(spelled), user(spelled), assistant("Done." + spelled)}
				other := []chat.Message{user("Say " + harmless + harmless), assistant(harmless), user(harmless), assistant("Done." + harmless)}

				for _, prompt := range []bool{false, true} {
					got, err := tmpl.Encode(dangerous, prompt)
					require.NoError(t, err)
					want, err := tmpl.Encode(other, prompt)
					require.NoError(t, err)
					require.Equal(t, special(want), special(got), "%s %q", name, spelled)

					text, err := tmpl.Render(dangerous, prompt)
					require.NoError(t, err)
					require.Greater(t, len(special(tok.EncodeMarkup(text))), len(special(got)), "the test tests nothing")
				}

				tokens, trained, err := tmpl.EncodeAnswers(dangerous)
				require.NoError(t, err)
				whole, err := tmpl.Encode(dangerous, false)
				require.NoError(t, err)
				require.Equal(t, whole, tokens)
				ends := 0
				for i, id := range tokens {
					if trained[i] && tok.Special(id) {
						ends++
						require.Equal(t, g.Tokens["eos_token"], tok.Token(id))
					}
				}
				require.Equal(t, 2, ends)
			}
		}
	}
}

func TestWhatIsLearned(t *testing.T) {
	for _, c := range []struct {
		template string
		messages []chat.Message
		want     []string // runs of tokens
	}{
		{"qwen2.5", []chat.Message{user("question"), assistant("answer"), user("q"), assistant("an answer")},
			[]string{"an|swer|<|im_end|>", "an|Ġanswer|<|im_end|>"}},
		{"smollm2", []chat.Message{user("question"), assistant("")}, []string{"<|im_end|>"}},
		{"qwen3", []chat.Message{user("q"), assistant("answer")}, []string{"<|t|h|i|n|k|>|Ċ|Ċ|<|/|t|h|i|n|k|>|Ċ|Ċ|an|swer|<|im_end|>"}},
		// The space before the answer is part of its first token, which the model writes.
		{"llama2", []chat.Message{user("Q"), assistant("A"), user("Q"), assistant("AB")}, []string{"▁A|▁|</s>", "▁A|B|▁|</s>"}},
		{"mistral", []chat.Message{user("Q"), assistant("A"), user("Q"), assistant("AB")}, []string{"A|</s>", "A|B|</s>"}},
	} {
		tok := tokenizerFor(t, c.template)
		tmpl := parse(t, c.template, chat.Options{Tokenizer: tok})
		tokens, trained, err := tmpl.EncodeAnswers(c.messages)
		require.NoError(t, err)
		require.Len(t, trained, len(tokens))
		var runs []string
		for i := 0; i < len(tokens); i++ {
			from := i
			for i < len(tokens) && trained[i] {
				i++
			}
			if i > from {
				runs = append(runs, spell(tok, tokens[from:i]))
			}
		}
		require.Equal(t, c.want, runs, "%s: %s", c.template, spell(tok, tokens))
	}
}

// A token of no text that begins an answer is what the model begins it with.
func TestASpaceThatIsNotInTheTextIsLearned(t *testing.T) {
	tok := pieces(t)
	tmpl, err := chat.Parse("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}", chat.Options{BOS: "<s>", EOS: "</s>", Tokenizer: tok})
	require.NoError(t, err)
	tokens, trained, err := tmpl.EncodeAnswers([]chat.Message{user("1"), assistant("2")})
	require.NoError(t, err)
	require.Equal(t, "<s>|▁|<0x31>|</s>|<s>|▁|<0x32>|</s>", spell(tok, tokens))
	require.Equal(t, []bool{false, false, false, false, false, true, true, true}, trained)
}

func TestEncodeWithoutATokenizerPanics(t *testing.T) {
	tmpl := parse(t, "smollm2", chat.Options{})
	require.PanicsWithValue(t, "chat: Options.Tokenizer is nil", func() { tmpl.Encode([]chat.Message{user("x")}, true) })
	require.PanicsWithValue(t, "chat: Options.Tokenizer is nil", func() { tmpl.EncodeAnswers([]chat.Message{user("x")}) })
}
