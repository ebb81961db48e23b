package chainrule_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
)

func TestParamsAreNamedViewsOfTheirMemory(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		data := make([]float32, c.NumParams())
		for i := range data {
			data[i] = float32(i)
		}
		p, err := chainrule.ParamsOf(c, data)
		require.NoError(t, err)
		require.Same(t, &data[0], &p.Data[0])

		// Each field is the tensor of its name.
		fields := map[string][]float32{"token_embedding": p.TokenEmbedding, "rms_final": p.RMSFinal}
		if !c.Tied {
			fields["wcls"] = p.Wcls
		}
		for i, l := range p.Layers {
			for name, f := range map[string][]float32{
				"rms_att": l.RMSAtt, "wq": l.Wq, "wk": l.Wk, "wv": l.Wv, "bq": l.Bq, "bk": l.Bk, "bv": l.Bv,
				"q_norm": l.QNorm, "k_norm": l.KNorm, "wo": l.Wo, "rms_ffn": l.RMSFFN, "w1": l.W1, "w2": l.W2, "w3": l.W3,
			} {
				if f != nil {
					fields[fmt.Sprintf("layers.%d.%s", i, name)] = f
				}
			}
		}
		names, at := 0, 0
		for tensor := range p.Tensors() {
			n := 1
			for _, d := range tensor.Shape {
				n *= d
			}
			require.Len(t, tensor.Data, n, tensor.Name)
			require.Same(t, &fields[tensor.Name][0], &tensor.Data[0], tensor.Name)
			require.Len(t, fields[tensor.Name], n, tensor.Name)
			require.Equal(t, float32(at), tensor.Data[0], "%s: the order of memory", tensor.Name)
			at += n
			names++
		}
		require.Equal(t, len(data), at)
		require.Len(t, fields, names)

		Q, KV := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
		for _, l := range p.Layers {
			require.Equal(t, append(append(append([]float32{}, l.Wq...), l.Wk...), l.Wv...), l.Wqkv)
			require.Equal(t, append(append([]float32{}, l.W1...), l.W3...), l.W13)
			require.Equal(t, c.QKVBias, l.Bqkv != nil && l.Bq != nil && l.Bk != nil && l.Bv != nil)
			require.Equal(t, c.QKVBias, l.Bqkv != nil || l.Bq != nil || l.Bk != nil || l.Bv != nil)
			require.Equal(t, c.QKNorm, l.QNorm != nil && l.KNorm != nil)
			require.Equal(t, c.QKNorm, l.QNorm != nil || l.KNorm != nil)
			if c.QKVBias {
				require.Equal(t, append(append(append([]float32{}, l.Bq...), l.Bk...), l.Bv...), l.Bqkv)
				require.Len(t, l.Bqkv, Q+2*KV)
			}
			for _, fused := range [][]float32{l.Wqkv, l.W13, l.Bqkv} {
				require.Equal(t, len(fused), cap(fused), "append would write the next tensor")
			}
		}
		if c.Tied {
			require.Same(t, &p.TokenEmbedding[0], &p.Wcls[0])
			require.Len(t, p.Wcls, len(p.TokenEmbedding))
		}
	})
}

func TestATensorThatIsNilIsNotYielded(t *testing.T) {
	p, err := chainrule.NewParams(shapes()["MHA"])
	require.NoError(t, err)
	p.Layers[1].Wk, p.RMSFinal, p.TokenEmbedding = nil, nil, nil
	for tensor := range p.Tensors() {
		require.NotContains(t, []string{"layers.1.wk", "rms_final", "token_embedding"}, tensor.Name)
		require.NotEmpty(t, tensor.Data)
	}
}

func TestParamsOfAnotherSizePanic(t *testing.T) {
	c := shapes()["MHA"]
	for _, off := range []int{-1, 1} {
		require.PanicsWithValue(t, "chainrule: ParamsOf: data has not Config.NumParams() elements", func() {
			chainrule.ParamsOf(c, make([]float32, c.NumParams()+off))
		})
	}
}

func TestNewModelOfSharesTheWeightsOfItsConfigOnly(t *testing.T) {
	c := shapes()["MHA"]
	p, err := chainrule.NewParams(c)
	require.NoError(t, err)
	m, err := chainrule.NewModelOf(c, p)
	require.NoError(t, err)
	require.Same(t, p, m.Params)
	m.Init(1)
	require.Equal(t, float32(1), p.RMSFinal[0])
	other := c
	other.RopeTheta++ // the same sizes do not make the same model
	for _, p := range []*chainrule.Params{nil, p} {
		require.PanicsWithValue(t, "chainrule: NewModelOf: p was made for another Config", func() { chainrule.NewModelOf(other, p) })
	}
}

// recorder notes which Matrix a product was with.
type recorder struct {
	backend.Backend
	seen []*backend.Matrix
}

func (r *recorder) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	r.seen = append(r.seen, w)
	return r.Backend.Linear(y, x, w, rows)
}

func TestTheBackendGetsTheFusedMatrices(t *testing.T) {
	eachShape(t, func(t *testing.T, c chainrule.Config) {
		m, err := chainrule.NewModel(c)
		require.NoError(t, err)
		r := &recorder{Backend: newBackend(t)}
		ws, err := chainrule.NewWorkspace(c, 1, 2, r)
		require.NoError(t, err)
		_, err = chainrule.Forward(m, ws, []int32{1, 2}, nil)
		require.NoError(t, err)
		want := [][]float32{}
		for _, l := range m.Layers {
			want = append(want, l.Wqkv, l.Wo, l.W13, l.W2)
		}
		want = append(want, m.Wcls)
		require.Len(t, r.seen, len(want))
		for i, w := range r.seen {
			require.Same(t, &want[i][0], &w.Data[0], "product %d", i)
			require.Equal(t, len(want[i]), w.Out*w.In, "product %d", i)
		}
	})
}

func TestCountingBytesOfManyLayersTakesNoMemory(t *testing.T) {
	c := chainrule.Config{
		Dim: 1, HiddenDim: 1, NLayers: 1 << 24, NHeads: 1, NKVHeads: 1, HeadDim: 2, VocabSize: 1, SeqLen: 8, RopeTheta: 1,
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	bytes, err := chainrule.WorkspaceBytes(c, 1, 8)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Greater(t, bytes, int64(1<<24*8*4*10))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestResidualRMSIsThatOfTheLargestToken(t *testing.T) {
	c := callsiteConfig()
	tr := newTrainer(t, c, 2, 8)
	r := rand.New(rand.NewPCG(1, 1))
	tokens := randomTokens(r, tr.Config, 16)
	_, err := chainrule.Forward(tr.Model, tr.ws, tokens, nil)
	require.NoError(t, err)
	before := tr.ws.ResidualRMS()
	require.Greater(t, before, 0.0)
	require.Less(t, before, 10.0)
	row := tr.TokenEmbedding[int(tokens[11])*c.Dim:][:c.Dim] // of the second sequence
	row[3] = 1e30
	tr.Touch()
	_, err = chainrule.Forward(tr.Model, tr.ws, tokens, nil)
	require.NoError(t, err)
	require.InEpsilon(t, 1e30/math.Sqrt(float64(c.Dim)), tr.ws.ResidualRMS(), 1e-3)
}
