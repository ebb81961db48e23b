package tokenizer

import (
	"slices"
	"strings"
)

// pipeline is what is done to text before a BPE model sees it and to tokens
// after, as the components of a tokenizer.json say it.
type pipeline struct {
	normalize []func(string, *alignment) string
	lengthens bool // one of them does

	// What happens to a piece between added tokens before splitters cut it.
	spacePrefix bool   // a space is put before it, unless it begins with one
	meta        string // what stands for a space, "" for none
	metaPrefix  string // "always", "first" (in a text) or "never": puts meta before it, unless it begins with it
	split       []splitter
	byteLevel   bool // tokens are spelled in the byte alphabet

	template templateIDs
	decode   decoder
}

// templateIDs are the tokens around a text.
type templateIDs struct{ prefix, suffix []int32 }

// decoder turns the spelling of a token into its bytes, and says what is
// taken away from the start of a text.
type decoder struct {
	steps     []func(string) string
	lengthens bool // one of them does
	strip     byte // up to stripMost of this byte at the start
	stripMost int
	dropFirst string // all of these in the first token
}

func (d *decoder) token(s string) string {
	for _, step := range d.steps {
		s = step(s)
	}
	return s
}

func (p *pipeline) addNormalizer(c *component) {
	if c.null {
		return
	}
	switch c.kind {
	case "Sequence":
		for _, c := range c.list("normalizers") {
			p.addNormalizer(c)
		}
	case "NFC":
		p.normalize = append(p.normalize, nfc)
	case "Prepend":
		prefix := c.string("prepend")
		p.normalize = append(p.normalize, func(s string, a *alignment) string {
			if s == "" {
				return s
			}
			return a.prepend(prefix, s)
		})
	case "Replace":
		f, longer := replacer(c)
		if longer && p.lengthens { // a chain of them could make any text endless
			c.unsupported("a second one that makes text longer")
		}
		p.lengthens = p.lengthens || longer
		p.normalize = append(p.normalize, f)
	default:
		c.unsupported("no such normalizer")
	}
	c.done()
}

// replacer is the component Replace, of a string, and whether it makes text longer.
func replacer(c *component) (f func(string, *alignment) string, longer bool) {
	old, content := stringPattern(c), c.string("content")
	if old == "" {
		c.unsupported("an empty pattern")
	}
	return func(s string, a *alignment) string { return a.replace(s, old, content) }, len(content) > len(old)
}

// stringPattern reads {"String": …}.
func stringPattern(c *component) string {
	m := c.must("pattern")
	p := m.component(c.what + " " + c.kind + " pattern")
	if p.members["Regex"] != nil {
		c.unsupported("a regular expression")
	}
	s := p.string("String")
	p.done()
	return s
}

func (p *pipeline) addPreTokenizer(c *component) {
	if c.null {
		return
	}
	if p.byteLevel && c.kind != "Sequence" {
		c.unsupported("a pre-tokenizer after ByteLevel")
	}
	switch c.kind {
	case "Sequence":
		for _, c := range c.list("pretokenizers") {
			p.addPreTokenizer(c)
		}
	case "ByteLevel":
		if c.bool("add_prefix_space", true) {
			if len(p.split) > 0 || p.meta != "" {
				c.unsupported("add_prefix_space after another pre-tokenizer")
			}
			p.spacePrefix = true
		}
		c.bool("trim_offsets", true)
		if c.bool("use_regex", true) {
			p.split = append(p.split, splitterOf(patternGPT2))
		}
		p.byteLevel = true
	case "Split":
		m := c.must("pattern").component("pre_tokenizer Split pattern")
		if m.members["Regex"] == nil {
			c.unsupported("a pattern that is not a regular expression")
		}
		pattern := m.string("Regex")
		m.done()
		s := splitterOf(pattern)
		if s == nil {
			c.unsupported("the pattern %q", short(pattern))
		}
		// All of a text matches any of the patterns, so that these are the same.
		if b := c.string("behavior"); b != "Isolated" && b != "Removed" || b == "Removed" != c.bool("invert", false) {
			c.unsupported("the behavior %q", short(b))
		}
		p.split = append(p.split, s)
	case "Digits":
		p.split = append(p.split, digitSplitter{runes(), c.bool("individual_digits", false)})
	case "Metaspace":
		if len(p.split) > 0 || p.meta != "" {
			c.unsupported("Metaspace after another pre-tokenizer")
		}
		p.meta, p.metaPrefix = readMetaspace(c)
		if c.bool("split", true) {
			p.split = append(p.split, metaSplitter{p.meta, false})
		}
	default:
		c.unsupported("no such pre-tokenizer")
	}
	c.done()
}

// readMetaspace reads the fields that the pre-tokenizer and the decoder share.
func readMetaspace(c *component) (replacement, prefix string) {
	replacement = c.string("replacement")
	if len([]rune(replacement)) != 1 {
		c.unsupported("the replacement %q", short(replacement))
	}
	prefix = "always"
	if m := c.take("prepend_scheme"); m != nil {
		prefix = m.string()
	}
	if !slices.Contains([]string{"always", "first", "never"}, prefix) {
		c.unsupported("the prepend_scheme %q", short(prefix))
	}
	if !c.bool("add_prefix_space", true) {
		prefix = "never"
	}
	c.take("str_rep")
	return replacement, prefix
}

// addPostProcessor reads what puts special tokens around a text.
func (p *pipeline) addPostProcessor(c *component) {
	if c.null {
		return
	}
	switch c.kind {
	case "Sequence":
		for _, c := range c.list("processors") {
			p.addPostProcessor(c)
		}
	case "ByteLevel": // changes offsets only
		c.bool("add_prefix_space", true)
		c.bool("trim_offsets", true)
		c.bool("use_regex", true)
	case "TemplateProcessing":
		p.addTemplate(c)
	default:
		c.unsupported("no such post-processor")
	}
	c.done()
}

func (p *pipeline) addTemplate(c *component) {
	ids := map[string][]int32{}
	specials := c.must("special_tokens")
	specials.object(func(key string) {
		t := specials.component("post_processor special token")
		t.take("id")
		t.take("tokens")
		m := t.must("ids")
		m.array(func(int) { ids[key] = append(ids[key], int32(m.integer(maxID))) })
		t.done()
	})
	c.take("pair")
	single := c.must("single")
	var before, after []int32
	texts := 0
	single.array(func(int) {
		piece := single.component("post_processor template")
		switch {
		case piece.members["SpecialToken"] != nil:
			t := piece.must("SpecialToken").component("post_processor SpecialToken")
			name := t.string("id")
			if ids[name] == nil {
				c.unsupported("the template names %q, which is not among its special_tokens", short(name))
			}
			if texts == 0 {
				before = append(before, ids[name]...)
			} else {
				after = append(after, ids[name]...)
			}
		case piece.members["Sequence"] != nil:
			piece.take("Sequence")
			texts++
		}
		piece.done()
	})
	if texts != 1 {
		c.unsupported("a template of %d texts", texts)
	}
	// Of a sequence of templates the later goes around the earlier.
	p.template.prefix = append(before, p.template.prefix...)
	p.template.suffix = append(p.template.suffix, after...)
}

func (p *pipeline) addDecoder(c *component) {
	d := &p.decode
	if c.null {
		c.unsupported("none: tokens would be joined by spaces")
	}
	if d.stripMost > 0 {
		c.unsupported("a decoder after Strip")
	}
	switch c.kind {
	case "Sequence":
		fused := false
		for _, c := range c.list("decoders") {
			switch {
			case c.kind == "Fuse":
				fused = true
				c.done()
			case c.kind == "Strip" && fused:
				s := c.string("content")
				d.stripMost = c.must("start").integer(1 << 10)
				if stop := c.must("stop").integer(1 << 10); len(s) != 1 || stop != 0 {
					c.unsupported("a content that is not one byte, or a stop")
				}
				d.strip = s[0]
				c.done()
			case fused:
				c.unsupported("a decoder after Fuse")
			default:
				p.addDecoder(c)
			}
		}
	case "ByteLevel":
		c.bool("add_prefix_space", true)
		c.bool("trim_offsets", true)
		c.bool("use_regex", true)
		d.steps = append(d.steps, fromByteLevel)
	case "Replace":
		f, longer := replacer(c)
		if longer && d.lengthens {
			c.unsupported("a second one that makes text longer")
		}
		d.lengthens = d.lengthens || longer
		d.steps = append(d.steps, func(s string) string { return f(s, nil) })
	case "ByteFallback":
		d.steps = append(d.steps, fromByteToken)
	case "Fuse":
	case "Metaspace":
		replacement, prefix := readMetaspace(c)
		c.bool("split", true)
		if prefix != "never" {
			if len(d.steps) > 0 {
				c.unsupported("a decoder before Metaspace")
			}
			d.dropFirst = replacement
		}
		d.steps = append(d.steps, func(s string) string { return strings.ReplaceAll(s, replacement, " ") })
	default:
		c.unsupported("no such decoder")
	}
	c.done()
}

// The alphabet of byte-level BPE: a printable byte is spelled as the rune of
// that number, and the others, in order, as the runes from U+0100.
var byteRunes, runeBytes = func() (to [256]rune, from [256 + 68]int16) {
	for r := range from {
		from[r] = -1
	}
	next := rune(256)
	for b := range to {
		r := rune(b)
		if !('!' <= r && r <= '~' || '¡' <= r && r <= '¬' || '®' <= r && r <= 'ÿ') {
			r, next = next, next+1
		}
		to[b], from[r] = r, int16(b)
	}
	return to, from
}()

// fromByteLevel is what s spells in the byte alphabet, or s itself if a rune
// of it is none of that.
func fromByteLevel(s string) string {
	if spelled, ok := cutByteLevel(s); ok {
		return spelled
	}
	return s
}

func cutByteLevel(s string) (spelled string, ok bool) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if int(r) >= len(runeBytes) || runeBytes[r] < 0 {
			return "", false
		}
		b = append(b, byte(runeBytes[r]))
	}
	return string(b), true
}

// fromByteToken is the byte that s names as <0x0A>, or s itself.
func fromByteToken(s string) string {
	if b, ok := byteOfToken(s); ok {
		return string([]byte{b})
	}
	return s
}

func byteOfToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	high, low := unhex(s[3]), unhex(s[4])
	return high<<4 | low, high < 16 && low < 16
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
