package tokenizer

import (
	"bufio"
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
)

// WriteJSON writes b as the tokenizer.json that Python's tokenizers reads, with the
// same ids. Errors of w are returned as they are.
func (b *BPE) WriteJSON(w io.Writer) error {
	buf := bufio.NewWriter(w)
	s := b.spec
	text := func(parts ...string) {
		for _, p := range parts {
			buf.WriteString(p)
		}
	}
	added := slices.Clone(s.added)
	slices.SortFunc(added, func(a, b AddedToken) int { return cmp.Compare(a.ID, b.ID) })

	text("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [")
	for i, t := range added {
		text(separator(i), "\n    {\"id\": ", strconv.Itoa(int(t.ID)), ", \"content\": ", quoteJSON(t.Content),
			", \"single_word\": false, \"lstrip\": ", strconv.FormatBool(t.LStrip), ", \"rstrip\": ", strconv.FormatBool(t.RStrip),
			", \"normalized\": ", strconv.FormatBool(t.Normalized), ", \"special\": ", strconv.FormatBool(t.Special), "}")
	}
	text("\n  ]")
	for _, c := range []struct {
		key  string
		data []byte
	}{
		{"normalizer", s.normalizer}, {"pre_tokenizer", s.preTokenizer},
		{"post_processor", s.postProcessor}, {"decoder", s.decoder},
	} {
		text(",\n  \"", c.key, "\": ", cmp.Or(string(c.data), "null"))
	}
	unk := "null"
	if s.unk != "" {
		unk = quoteJSON(s.unk)
	}
	text(",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ", unk,
		",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": ", strconv.FormatBool(s.fuseUnk),
		",\n    \"byte_fallback\": ", strconv.FormatBool(s.fallback), ",\n    \"ignore_merges\": ", strconv.FormatBool(s.wholeWords),
		",\n    \"vocab\": {")
	all := addedCount(s.tokens, added)
	n := 0
	for id, t := range b.tokens {
		if t != "" && (all || b.isModel(int32(id))) {
			text(separator(n), "\n      ", quoteJSON(t), ": ", strconv.Itoa(id))
			n++
		}
	}
	text("\n    },\n    \"merges\": [")
	pairs := slices.ContainsFunc(s.merges, func(m [2]int32) bool {
		return strings.Contains(b.tokens[m[0]], " ") || strings.Contains(b.tokens[m[1]], " ")
	})
	for i, m := range s.merges {
		left, right := b.tokens[m[0]], b.tokens[m[1]]
		if pairs {
			text(separator(i), "\n      [", quoteJSON(left), ", ", quoteJSON(right), "]")
		} else { // as older versions want it
			text(separator(i), "\n      ", quoteJSON(left+" "+right))
		}
	}
	text("\n    ]\n  }\n}\n")
	return buf.Flush()
}

// addedCount reports whether added tokens must be in the vocabulary too: the reference
// counts the ids of those that are not from the size of the vocabulary.
func addedCount(tokens []string, added []AddedToken) bool {
	next := 0
	for _, t := range tokens {
		if t != "" {
			next++
		}
	}
	for _, t := range added {
		if int(t.ID) < len(tokens) && tokens[t.ID] != "" {
			continue
		}
		if int(t.ID) != next {
			return true
		}
		next++
	}
	return false
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

func quoteJSON(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		panic("chainrule: a string that is no JSON")
	}
	return strings.TrimSuffix(b.String(), "\n")
}
