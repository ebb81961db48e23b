package chat_test

import (
	"fmt"
	"log"
	"slices"

	"github.com/chainrule-go/chainrule/chat"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// A template of the ChatML kind, as many models have.
const chatML = `{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`

func ExampleTemplate_Render() {
	t, err := chat.Parse(chatML, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		log.Fatal(err)
	}
	text, err := t.Render([]chat.Message{{Role: "user", Content: "What is 2+2?"}}, true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(text)
	// Output:
	// <|im_start|>user
	// What is 2+2?<|im_end|>
	// <|im_start|>assistant
}

// A model learns its answers and to end them, and not what others say.
func ExampleTemplate_EncodeAnswers() {
	tok, err := tokenizer.Train(slices.Values([]string{"user assistant"}),
		tokenizer.TrainOptions{VocabSize: 300, Special: []string{"<|im_start|>", "<|im_end|>"}})
	if err != nil {
		log.Fatal(err)
	}
	t, err := chat.Parse(chatML, chat.Options{EOS: "<|im_end|>", Tokenizer: tok})
	if err != nil {
		log.Fatal(err)
	}
	tokens, trained, err := t.EncodeAnswers([]chat.Message{{Role: "user", Content: "2+2?"}, {Role: "assistant", Content: "4"}})
	if err != nil {
		log.Fatal(err)
	}
	for i, id := range tokens {
		if trained[i] {
			fmt.Printf("%q\n", tok.Token(id))
		}
	}
	// Output:
	// "4"
	// "<|im_end|>"
}
