// The type of daymend's dashboard: Grafana's own types, a little stricter where they accept anything (options and
// queries of a panel), a little laxer where they require what Grafana fills in.
import type { Dashboard, DashboardLink, FieldConfigSource, Panel, RowPanel } from "@grafana/schema";
import type * as BarGauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as Table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** JSON has no enums: their values replace them. */
type Json<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Json<Item>[]
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

/** A query for Prometheus; its type is not part of Grafana's schema. */
interface Target {
  refId: string;
  expr: string;
  legendFormat?: string;
  instant?: boolean;
  range: boolean;
  format?: "table";
}

type Of<Type extends string, Options, Custom> = Omit<Panel, "fieldConfig" | "links" | "options" | "targets" | "type"> & {
  type: Type;
  fieldConfig: Omit<FieldConfigSource, "defaults"> & {
    defaults: Omit<FieldConfigSource["defaults"], "custom"> & { custom?: Custom };
  };
  links?: Pick<DashboardLink, "title" | "url" | "targetBlank">[];
  options: Partial<Options>;
  targets: Target[];
};

type Shown =
  | Of<"stat", Stat.Options, never>
  | Of<"bargauge", BarGauge.Options, never>
  | Of<"table", Table.Options, Partial<Table.FieldConfig>>
  | Of<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>;

type Row = Omit<RowPanel, "panels"> & { panels: Shown[] };

export type Checked = Json<Omit<Dashboard, "panels"> & { panels: (Shown | Row)[] }>;
